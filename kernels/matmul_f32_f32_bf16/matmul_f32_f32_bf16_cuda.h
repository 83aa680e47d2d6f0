// matmul_f32_f32_bf16 on a GPU: Y = X W^T + bias for the linears of a site in one launch, W row-major [n, k]
// in bf16: what a float checkpoint usually stores, so that nothing is lost and half the bytes move. Exact as
// matmul_f32_f32_f32 with the same weights in float32. Moves     2 bytes a weight; bound by them for few
// rows, by the CUDA cores' FMA for many. Targets   sm_80 (few rows overlap their predecessor's end on sm_90).
#pragma once

#include "kernels/cuda/simt_matmul.h"

namespace spikefold::kernels::matmul_f32_f32_bf16 {

absl::Status RunCuda(const cuda::SimtParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_f32_bf16
