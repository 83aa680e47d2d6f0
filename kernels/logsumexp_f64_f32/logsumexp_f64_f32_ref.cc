#include <cmath>

#include "formats/base/status.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32_isa.h"

namespace spikefold::kernels::logsumexp_f64_f32 {

RowResult RowPlain(const float* x, int64_t n) {
  int64_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return {};
    if (x[i] > x[top]) top = i;
  }
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(double{x[i]} - x[top]);
  return {.lse = std::log(sum) + x[top], .top = top, .finite = true};
}

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t m = 0; m < p.m; ++m) p.out[m] = RowPlain(p.x + m * p.x_stride, p.n);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::logsumexp_f64_f32
