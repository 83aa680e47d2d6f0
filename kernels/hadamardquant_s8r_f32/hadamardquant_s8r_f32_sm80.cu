#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/hadamardquant_s8r_f32/hadamardquant_s8r_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::hadamardquant_s8r_f32 {
namespace {

namespace quantize = quantize_s8r_f32;

template <bool kRotates>
__global__ void __launch_bounds__(quantize::kMostThreads)
    hadamardquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t k = p.quantize.k;
  const float* const x = p.x + blockIdx.x * k;
  if constexpr (kRotates) {
    const auto scaled = [x, scale = p.rotation.scale](int i) { return x[i] * scale[i]; };
    quantize::RotateAndQuantizeRow(p.quantize, blockIdx.x, p.rotation, p.shift, scaled, row, p.x);
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < k; i += static_cast<int>(blockDim.x)) row[i] = x[i];
    __syncthreads();
    quantize::ShiftRow(p.shift, k, row);
    quantize::QuantizeRow(p.quantize, blockIdx.x, row, quantize::kInOrder, p.x);
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  const auto kernel =
      p.rotation.num_factors > 0 ? hadamardquant_s8r_f32_sm80<true> : hadamardquant_s8r_f32_sm80<false>;
  return cuda::Launch("hadamardquant_s8r_f32", kernel,
                      {.grid = dim3(static_cast<unsigned>(p.quantize.m)),
                       .block = dim3(quantize::RowThreads(p.quantize.m, p.quantize.k)),
                       .shared_bytes = quantize::FusedBytes(p.quantize.k),
                       .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::hadamardquant_s8r_f32
