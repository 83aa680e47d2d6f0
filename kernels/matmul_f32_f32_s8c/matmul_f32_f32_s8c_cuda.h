// matmul_f32_f32_s8c on a GPU: float rows times 8-bit codes, one scale a channel, with kept columns, bias and
// super weights; of all rows, or of the spike rows that the quantizer listed. W row-major with the row bytes
// of matmul_f32_s8r_s8c, which reads the same codes.
// Method    up to 4 rows: integers on the tensor cores, x in three digits (kernels/cuda/digit_rows.cuh);
//           more, and lists of rows: the CUDA cores.
// Exact     float32 sums of x * code, scaled once; in digits x is exact to 2^-22 of the largest of 64
// columns. Targets   sm_80.
#pragma once

#include "kernels/cuda/simt_matmul.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

absl::Status RunCuda(const cuda::SimtParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
