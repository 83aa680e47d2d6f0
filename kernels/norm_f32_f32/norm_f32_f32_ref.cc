#include <cmath>

#include "formats/base/status.h"
#include "kernels/norm_f32_f32/norm_f32_f32_isa.h"

namespace spikefold::kernels::norm_f32_f32 {

void RowsPlain(const Params& p, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    const float* x = p.x + m * p.k;
    double sum = 0;
    for (int64_t k = 0; k < p.k; ++k) sum += double{x[k]} * x[k];
    const double factor = 1 / std::sqrt(sum / static_cast<double>(p.k) + p.eps);
    for (int64_t k = 0; k < p.k; ++k) p.y[m * p.k + k] = static_cast<float>(x[k] * factor * p.gain[k]);
  }
}

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  RowsPlain(p, 0, p.m);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::norm_f32_f32
