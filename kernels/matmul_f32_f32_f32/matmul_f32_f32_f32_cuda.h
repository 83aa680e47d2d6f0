// matmul_f32_f32_f32 on a GPU: Y = X W^T + bias for the linears of a site in one launch, W row-major [n, k].
// Exact     float32 products and sums; a row's result may differ in its last bits between few rows (a warp a
//           channel) and many (tiles).
// Targets   sm_80.
#pragma once

#include "kernels/cuda/simt_matmul.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

absl::Status RunCuda(const cuda::SimtParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_f32_f32
