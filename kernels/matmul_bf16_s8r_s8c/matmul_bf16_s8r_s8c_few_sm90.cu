// Design: kernels/cuda/few_rows_wgmma.cuh.
#include "kernels/cuda/few_rows_wgmma.cuh"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c_few.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {
namespace {

cuda::few::Operands OperandsOf(const Params& p) {
  cuda::few::Operands o = {.m = p.m,
                           .row_bytes = p.k,
                           .x = p.x,
                           .x_scale = p.x_scale,
                           .num_kept = p.num_kept,
                           .kept_x = p.kept_x,
                           .linears = {.count = 1}};
  o.linears.linear[0] = LinearOf(p);
  return o;
}

}  // namespace

bool FitsFewHopper(const Params& p, const cuda::DeviceInfo& device) {
  return cuda::few::Fits(OperandsOf(p), device);
}

absl::Status RunFewHopper(const Params& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  return cuda::few::Run<__nv_bfloat16>("matmul_bf16_s8r_s8c", OperandsOf(p), p.plan, device, stream);
}

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
