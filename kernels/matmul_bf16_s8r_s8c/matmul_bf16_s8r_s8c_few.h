// Between the targets: few rows, and chips before Hopper.
#pragma once

#include "kernels/cuda/outlier_tail_cuda.h"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {

// W as the kernels for sm_90a take it; y is of bf16.
inline cuda::Linear LinearOf(const Params& p) {
  return {.n = p.n,
          .w = p.w,
          .w_stride = p.k,
          .w_scale = p.w_scale,
          .kept_w = p.num_kept > 0 ? p.kept_w : nullptr,
          .kept_rows = p.kept_w,
          .bias = p.bias,
          .y = reinterpret_cast<float*>(p.y)};
}

inline constexpr int64_t kFewRows = 8;  // up to so many mma.sync, fed from memory, is at least as fast

absl::Status RunFew(const Params& params, const cuda::Stream& stream);
// wgmma with W on its left.
bool FitsFewHopper(const Params& params, const cuda::DeviceInfo& device);
absl::Status RunFewHopper(const Params& params, const cuda::DeviceInfo& device, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
