#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32.cuh"
#include "kernels/normquant_s8r_f32/normquant_s8r_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::normquant_s8r_f32 {
namespace {

__global__ void __launch_bounds__(quantize_s8r_f32::kMostThreads)
    normquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];  // [k], then a block of the rotation
  cuda::LetNextStart();
  norm_f32_f32::PrefetchGain(p.norm);
  cuda::WaitForInputs();
  const int64_t k = p.norm.k;
  norm_f32_f32::NormRow(p.norm, blockIdx.x, row, true);
  __syncthreads();
  if (p.rotation.num_factors > 0) hadamard_f32_f32::TransformRow(row, row + k, k, p.rotation);
  quantize_s8r_f32::ShiftRow(p.shift, k, row);
  if (p.norm.y != nullptr) quantize_s8r_f32::CopyRow(row, k, p.norm.y + blockIdx.x * k);
  quantize_s8r_f32::QuantizeRow(p.quantize, blockIdx.x, row);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  return cuda::Launch("normquant_s8r_f32", normquant_s8r_f32_sm80,
                      {.grid = dim3(static_cast<unsigned>(p.quantize.m)),
                       .block = dim3(quantize_s8r_f32::RowThreads(p.quantize.m, p.quantize.k)),
                       .shared_bytes = quantize_s8r_f32::FusedBytes(p.quantize.k, p.rotation),
                       .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::normquant_s8r_f32
