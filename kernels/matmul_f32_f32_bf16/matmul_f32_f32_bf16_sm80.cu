#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_bf16/matmul_f32_f32_bf16_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_bf16 {

absl::Status RunCuda(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return cuda::RunSimt<__nv_bfloat16>("matmul_f32_f32_bf16", p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_bf16
