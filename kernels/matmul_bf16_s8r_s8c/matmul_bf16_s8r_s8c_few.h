// Between the targets: few rows, and chips before Hopper.
#pragma once

#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {

inline constexpr int64_t kFewRows = 8;  // up to so many mma.sync, fed from memory, is at least as fast

absl::Status RunFew(const Params& params, const cuda::Stream& stream);
// wgmma with W on its left.
bool FitsFewHopper(const Params& params, const cuda::DeviceInfo& device);
absl::Status RunFewHopper(const Params& params, const cuda::DeviceInfo& device, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
