#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {

absl::Status Reference(const Params& p, const int8_t* codes, const float* scales) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < p.k; ++k) {
        const double w = double{scales[n * (p.k / p.group) + k / p.group]} * codes[n * p.k + k];
        sum += p.x[m * p.k + k] * w;
      }
      p.y[m * p.n + n] = static_cast<float>(sum + ReferenceTail(p.tail, m, n));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
