#include "formats/base/status.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {

absl::Status Reference(const Params& p, const int8_t* codes) {
  SF_RETURN_IF_ERROR(Supports(p));
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      int64_t sum = 0;  // exact, so no order of addition can excuse a difference
      for (int64_t k = 0; k < p.k; ++k) sum += int64_t{p.x[m * p.k + k]} * codes[n * p.k + k];
      if (p.x_zero != nullptr) sum -= int64_t{p.x_zero[m]} * p.w_code_sum[n];
      if (p.sums != nullptr) p.sums[m * p.n + n] = static_cast<int32_t>(sum);
      const double scale = double{p.x_scale[m * p.x_scale_stride]} * p.w_scale[n];
      p.y[m * p.n + n] = static_cast<float>(static_cast<double>(sum) * scale + ReferenceTail(p.tail, m, n));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
