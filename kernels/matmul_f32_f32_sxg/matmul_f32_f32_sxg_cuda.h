// matmul_f32_f32_sxg on a GPU: float rows times codes in groups, with kept columns, bias and super weights;
// of all rows, or of the spike rows that the quantizer listed.
// Layout    code - zero point as int8, row-major, rows padded with zeros to multiples of 16 bytes; float32
//           scales. One byte a weight whatever its bits: the exact path, not yet the small one.
// Requires  groups of a multiple of 16 columns, or of a whole row.
// Exact     the CPU's order: a group's sum fused over k ascending, times its scale fused over g ascending.
// Targets   sm_80.
#pragma once

#include "kernels/cuda/simt_matmul.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {

absl::Status RunCuda(const cuda::SimtParams& params, const cuda::Stream& stream);
// The same from tiles of 4-bit codes (matmul_f32_f32_s4g_cuda.h).
absl::Status RunTiles(const cuda::SimtParams& params, const cuda::Stream& stream);
// The same from codes in two integer levels (matmul_f32_s8r_u4h_cuda.h); groups as stored.
absl::Status RunTwoLevels(const cuda::SimtParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
