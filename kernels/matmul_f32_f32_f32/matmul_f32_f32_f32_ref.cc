#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      double sum = p.bias != nullptr ? p.bias[n] : 0;
      for (int64_t k = 0; k < p.k; ++k) {
        sum += double{p.x[m * p.x_stride + k]} * p.w[(n / kPanel * p.k + k) * kPanel + n % kPanel];
      }
      p.y[m * p.y_stride + n] = static_cast<float>(sum);
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_f32
