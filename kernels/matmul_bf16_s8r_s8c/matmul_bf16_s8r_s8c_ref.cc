#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {

absl::Status Supports(const Params& p, const cuda::DeviceInfo& device) {
  constexpr char kName[] = "matmul_bf16_s8r_s8c";
  if (p.m < 1 || p.n < 1 || p.k < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " N=", p.n, " K=", p.k, " is empty; each must be at least 1"));
  }
  if (device.sm < 80) {
    return absl::UnimplementedError(
        absl::StrCat(kName, ": ", device.name, " is sm_", device.sm, "; sm_80 is needed"));
  }
  if (p.k % 16 != 0 || p.n % 8 != 0 || p.num_kept % kKeptStep != 0) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": K=", p.k, " N=", p.n, " r=", p.num_kept,
                                                   " must be multiples of 16, 8 and ", kKeptStep,
                                                   "; pad with zeros"));
  }
  if (p.k >= 131072) {
    return absl::UnimplementedError(absl::StrCat(kName, ": K=", p.k, " is not below 131072"));
  }
  return absl::OkStatus();
}

absl::Status Reference(const Params& p) {
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      int64_t sum = 0;
      for (int64_t k = 0; k < p.k; ++k) sum += int64_t{p.x[m * p.k + k]} * p.w[n * p.k + k];
      double y = static_cast<double>(sum) * p.x_scale[m] * p.w_scale[n] + (p.bias == nullptr ? 0 : p.bias[n]);
      for (int64_t c = 0; c < p.num_kept; ++c) {
        y += double{Bf16ToFloat(p.kept_x[m * p.num_kept + c])} * Bf16ToFloat(p.kept_w[n * p.num_kept + c]);
      }
      p.y[m * p.n + n] = FloatToBf16(static_cast<float>(y));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
