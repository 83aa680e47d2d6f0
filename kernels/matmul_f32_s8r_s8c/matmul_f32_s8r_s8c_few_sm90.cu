// Design: kernels/cuda/few_rows_wgmma.cuh.
#include "kernels/cuda/few_rows_wgmma.cuh"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

cuda::few::Operands OperandsOf(const CudaParams& p) {
  return {.m = p.m,
          .row_bytes = RowBytes(p.k),
          .x = p.x,
          .x_scale = p.x_scale,
          .num_kept = p.num_kept,
          .kept_x = p.kept_rows,
          .linears = p.linears};
}

}  // namespace

bool FitsFewHopper(const CudaParams& p, const cuda::DeviceInfo& device) {
  return cuda::few::Fits(OperandsOf(p), device);
}

absl::Status RunFewHopper(const CudaParams& p, const cuda::few::Plan& plan, const cuda::DeviceInfo& device,
                          const cuda::Stream& stream) {
  return cuda::few::Run<float>("matmul_f32_s8r_s8c", OperandsOf(p), plan, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
