// Design: kernels/cuda/pingpong_tiles.cuh; float32 leaves the block, made in the CPU's order of roundings.
// All 64 products of a stage of kept columns are added in an order of the tensor core's own.
#include "kernels/cuda/pingpong_tiles.cuh"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {

static_assert(kKeptStep == cuda::pingpong::kKeptStep);

absl::Status RunHopper(const CudaParams& p, const cuda::pingpong::Plan& plan, const cuda::DeviceInfo& device,
                       const cuda::Stream& stream) {
  return cuda::pingpong::Run<cuda::pingpong::Type::kS8, float>({.name = "matmul_f32_s8r_s8c",
                                                                .m = p.m,
                                                                .row_bytes = RowBytes(p.k),
                                                                .x = p.x,
                                                                .x_scale = p.x_scale,
                                                                .num_kept = KeptColumns(p.num_kept),
                                                                .kept_x = p.kept_rows,
                                                                .linears = p.linears},
                                                               plan, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
