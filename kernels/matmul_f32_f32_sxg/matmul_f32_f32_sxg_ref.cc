#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {

absl::Status Reference(const Params& p, const GroupWeights& w) {
  SF_RETURN_IF_ERROR(Supports(p));
  const int64_t num_groups = p.k / p.group;
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < p.k; ++k) {
        const int64_t g = n * num_groups + k / p.group;
        const int code = w.codes[n * p.k + k] - (w.zeros == nullptr ? 0 : w.zeros[g]);
        sum += p.x[m * p.k + k] * (double{w.scales[g]} * code);
      }
      p.y[m * p.n + n] = static_cast<float>(sum + ReferenceTail(p.tail, m, n));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
