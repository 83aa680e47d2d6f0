#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

absl::Status Reference(const Params& p, const int8_t* codes) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < p.k; ++k) sum += double{p.x[m * p.k + k]} * codes[n * p.k + k];
      p.y[m * p.n + n] = static_cast<float>(sum * p.w_scale[n] + ReferenceTail(p.tail, m, n));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
