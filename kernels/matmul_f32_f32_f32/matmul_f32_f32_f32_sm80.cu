#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

absl::Status RunCuda(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return cuda::RunSimt<float>("matmul_f32_f32_f32", p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_f32
