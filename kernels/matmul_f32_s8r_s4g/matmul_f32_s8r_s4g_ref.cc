#include "formats/base/status.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {

absl::Status Reference(const Params& p, const int8_t* codes, const float* scales) {
  SF_RETURN_IF_ERROR(Supports(p));
  const int64_t num_groups = p.k / p.group;
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      double sum = 0;
      for (int64_t g = 0; g < num_groups; ++g) {
        int64_t group_sum = 0;  // exact, so no order of addition can excuse a difference
        for (int64_t k = g * p.group; k < (g + 1) * p.group; ++k) {
          group_sum += int64_t{p.x[m * p.k + k]} * codes[n * p.k + k];
        }
        if (p.group_sums != nullptr) {
          p.group_sums[(m * p.n + n) * num_groups + g] = static_cast<int32_t>(group_sum);
        }
        sum += double{scales[n * num_groups + g]} * static_cast<double>(group_sum);
      }
      p.y[m * p.n + n] =
          static_cast<float>(sum * p.x_scale[m * p.x_scale_stride] + ReferenceTail(p.tail, m, n));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
