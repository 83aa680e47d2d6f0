#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.cuh"
#include "kernels/gatedmulquant_s8r_f32/gatedmulquant_s8r_f32_cuda.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::gatedmulquant_s8r_f32 {
namespace {

__global__ void __launch_bounds__(quantize_s8r_f32::kMostThreads)
    gatedmulquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];  // [k], then a block of the rotation
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t k = p.quantize.k, at = blockIdx.x * k;
  const float* const gate = p.gatedmul.gate + at;
  const float* const up = p.gatedmul.up + at;
  const auto gated = [&](float a, float b) { return gatedmul_f32_f32::Gated(p.gatedmul.activation, a, b); };
  if (k % 4 == 0) {
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x) * 4; i < k; i += static_cast<int>(blockDim.x) * 4) {
      const float4 a = *reinterpret_cast<const float4*>(gate + i);
      const float4 b = *reinterpret_cast<const float4*>(up + i);
      *reinterpret_cast<float4*>(row + i) =
          make_float4(gated(a.x, b.x), gated(a.y, b.y), gated(a.z, b.z), gated(a.w, b.w));
    }
  } else {
    for (int64_t i = threadIdx.x; i < k; i += blockDim.x) row[i] = gated(gate[i], up[i]);
  }
  __syncthreads();
  if (p.rotation.num_factors > 0) hadamard_f32_f32::TransformRow(row, row + k, k, p.rotation);
  quantize_s8r_f32::ShiftRow(p.shift, k, row);
  if (p.gatedmul.y != nullptr) quantize_s8r_f32::CopyRow(row, k, p.gatedmul.y + at);
  quantize_s8r_f32::QuantizeRow(p.quantize, blockIdx.x, row);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  return cuda::Launch("gatedmulquant_s8r_f32", gatedmulquant_s8r_f32_sm80,
                      {.grid = dim3(static_cast<unsigned>(p.quantize.m)),
                       .block = dim3(quantize_s8r_f32::RowThreads(p.quantize.m, p.quantize.k)),
                       .shared_bytes = quantize_s8r_f32::FusedBytes(p.quantize.k, p.rotation),
                       .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::gatedmulquant_s8r_f32
