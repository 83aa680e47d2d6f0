// matmul_f32_s8r_s4g on a GPU (W4A8): INT8 rows with one scale each times 4-bit codes with a scale and a zero
// point a group. What it computes is matmul_f32_s8r_sxg's, from the tiles of matmul_f32_f32_s4g.
// Layout    x rows as matmul_f32_s8r_s8c_cuda.h; w, w_scale, w_zero as matmul_f32_f32_s4g_cuda.h packs them.
// Moves     0.56 bytes a weight with groups of 64 (0.58 with zero points); bound by them for few rows.
// Requires  K a multiple of 64, groups of a multiple of 64.
// Exact     bit for bit the CPU's: integer group sums, their float sum over g ascending without fusing, then
// the
//           row's scale and the tail. Super weights are added by AddSuperWeights.
// Targets   sm_90a, any number of rows.
#pragma once

#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {

inline bool Supports(int64_t k, int64_t group, const cuda::DeviceInfo& device) {
  return device.sm == 90 && matmul_f32_f32_s4g::Supports(k, group);
}
// Reads kept_rows of x and of the linears for up to 128 kept columns.
absl::Status RunHopper(const matmul_f32_s8r_s8c::CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
