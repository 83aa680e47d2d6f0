#include <cmath>

#include "formats/base/status.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_isa.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32_isa.h"

namespace spikefold::kernels::kld_f64_f32_f32 {

RowResult RowPlain(const float* p, const float* q, int64_t n) {
  const auto a = logsumexp_f64_f32::RowPlain(p, n), b = logsumexp_f64_f32::RowPlain(q, n);
  if (!a.finite || !b.finite) return {};
  RowResult result = {.lse_p = a.lse, .lse_q = b.lse, .top_p = a.top, .top_q = b.top, .finite = true};
  for (int64_t i = 0; i < n; ++i) {
    const double log_p = p[i] - a.lse, log_q = q[i] - b.lse;
    const double term = std::exp(log_p) * (log_p - log_q);
    result.kld += term;
    if (log_p <= kRareLogP) result.kld_rare += term;
  }
  return result;
}

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t m = 0; m < p.m; ++m) p.out[m] = RowPlain(p.p + m * p.stride, p.q + m * p.stride, p.n);
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::kld_f64_f32_f32
