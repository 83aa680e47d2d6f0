// matmul_f32_s8r_sxg on a GPU: codes times codes in groups, the linears of a site in one launch; symmetric
// rows with one scale each. Layout as matmul_f32_f32_sxg_cuda.h; Linear::group set. Exact     bit for bit the
// CPU's: integer group sums, their float sum over g ascending without fusing, then the row's
//           scale and the tail. Super weights are added by AddSuperWeights.
// Targets   sm_90a: wgmma, for groups of 32, 64, a multiple of 128 or a whole row, the same in all linears,
// and
//           at most 128 kept columns; sm_80: dp4a on tiles of 64x64 outputs.
#pragma once

#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {

absl::Status RunCuda(const matmul_f32_s8r_s8c::CudaParams& params, const cuda::Stream& stream);  // sm_80
bool FitsHopper(const matmul_f32_s8r_s8c::CudaParams& params, const cuda::DeviceInfo& device);
// Requires FitsHopper(). Reads kept_rows of x and of the linears for kept columns.
absl::Status RunHopper(const matmul_f32_s8r_s8c::CudaParams& params, const cuda::Stream& stream);
// Whichever is faster on this device.
inline absl::Status RunCuda(const matmul_f32_s8r_s8c::CudaParams& params, const cuda::DeviceInfo& device,
                            const cuda::Stream& stream) {
  return FitsHopper(params, device) ? RunHopper(params, stream) : matmul_f32_s8r_sxg::RunCuda(params, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
