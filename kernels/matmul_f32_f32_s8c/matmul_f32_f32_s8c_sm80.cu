#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

absl::Status RunCuda(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return cuda::RunSimt<int8_t>("matmul_f32_f32_s8c", p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
