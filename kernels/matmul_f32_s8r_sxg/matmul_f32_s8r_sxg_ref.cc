#include "formats/base/status.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {

absl::Status Reference(const Params& p, const GroupWeights& w) {
  SF_RETURN_IF_ERROR(Supports(p));
  const int64_t num_groups = p.k / p.group;
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      double sum = 0;
      for (int64_t g = 0; g < num_groups; ++g) {
        const int64_t zero = w.zeros == nullptr ? 0 : w.zeros[n * num_groups + g];
        int64_t group_sum = 0;  // exact, so no order of addition can excuse a difference
        for (int64_t k = g * p.group; k < (g + 1) * p.group; ++k) {
          group_sum += int64_t{p.x[m * p.k + k]} * (w.codes[n * p.k + k] - zero);
        }
        if (p.group_sums != nullptr) {
          p.group_sums[(m * p.n + n) * num_groups + g] = static_cast<int32_t>(group_sum);
        }
        const double x_scale = p.x_group > 0 ? p.x_scale[m * (p.k / p.x_group) + g * p.group / p.x_group]
                                             : p.x_scale[m * p.x_scale_stride];
        sum += double{w.scales[n * num_groups + g]} * x_scale * static_cast<double>(group_sum);
      }
      if (p.x_zero != nullptr) {
        sum -= double{p.x_scale[m * p.x_scale_stride]} * p.x_zero[m] * double{p.w_row_sum[n]};
      }
      p.y[m * p.n + n] = static_cast<float>(sum + ReferenceTail(p.tail, m, n));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
