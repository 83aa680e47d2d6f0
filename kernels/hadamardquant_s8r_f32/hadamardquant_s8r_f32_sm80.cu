#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/hadamardquant_s8r_f32/hadamardquant_s8r_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::hadamardquant_s8r_f32 {
namespace {

namespace quantize = quantize_s8r_f32;

__global__ void __launch_bounds__(quantize::kMostThreads)
    hadamardquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t k = p.quantize.k, at = blockIdx.x * k;
  const bool rotates = p.rotation.num_factors > 0;
  const quantize::Places place = quantize::PlacesOf(p.rotation);
  if (k % 4 == 0) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) * 4; i < k; i += static_cast<int>(blockDim.x) * 4) {
      float4 v = *reinterpret_cast<const float4*>(p.x + at + i);
      if (rotates) v = hadamard_f32_f32::Scaled(v, p.rotation.scale + i);
      *reinterpret_cast<float4*>(row + place(i)) = v;
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < k; i += static_cast<int>(blockDim.x)) {
      row[place(i)] = rotates ? p.x[at + i] * p.rotation.scale[i] : p.x[at + i];
    }
  }
  __syncthreads();
  if (rotates) hadamard_f32_f32::TransformRow(row, static_cast<int>(k), p.rotation);
  quantize::ShiftRow(p.shift, k, row, place);
  quantize::CopyRow(row, place, k, p.x + at);
  quantize::QuantizeRow(p.quantize, blockIdx.x, row, place);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  return cuda::Launch("hadamardquant_s8r_f32", hadamardquant_s8r_f32_sm80,
                      {.grid = dim3(static_cast<unsigned>(p.quantize.m)),
                       .block = dim3(quantize::RowThreads(p.quantize.m, p.quantize.k)),
                       .shared_bytes = quantize::FusedBytes(p.quantize.k),
                       .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::hadamardquant_s8r_f32
