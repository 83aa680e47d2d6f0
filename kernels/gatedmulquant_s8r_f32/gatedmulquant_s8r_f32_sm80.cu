#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.cuh"
#include "kernels/gatedmulquant_s8r_f32/gatedmulquant_s8r_f32_cuda.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::gatedmulquant_s8r_f32 {
namespace {

namespace quantize = quantize_s8r_f32;

__device__ float4 GatedFour(const CudaParams& p, int64_t at, int i) {
  const float4 a = *reinterpret_cast<const float4*>(p.gatedmul.gate + at + i);
  const float4 b = *reinterpret_cast<const float4*>(p.gatedmul.up + at + i);
  const auto gated = [&](float x, float y) { return gatedmul_f32_f32::Gated(p.gatedmul.activation, x, y); };
  return make_float4(gated(a.x, b.x), gated(a.y, b.y), gated(a.z, b.z), gated(a.w, b.w));
}

// The row in shared memory.
__global__ void __launch_bounds__(quantize::kMostThreads)
    gatedmulquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t k = p.quantize.k, at = blockIdx.x * k;
  const bool rotates = p.rotation.num_factors > 0;
  const quantize::Places place = quantize::PlacesOf(p.rotation);
  if (k % 4 == 0) {
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x) * 4; i < k; i += static_cast<int>(blockDim.x) * 4) {
      float4 v = GatedFour(p, at, i);
      if (rotates) v = hadamard_f32_f32::Scaled(v, p.rotation.scale + i);
      *reinterpret_cast<float4*>(row + place(i)) = v;
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < k; i += static_cast<int>(blockDim.x)) {
      const float v =
          gatedmul_f32_f32::Gated(p.gatedmul.activation, p.gatedmul.gate[at + i], p.gatedmul.up[at + i]);
      row[place(i)] = rotates ? v * p.rotation.scale[i] : v;
    }
  }
  __syncthreads();
  if (rotates) hadamard_f32_f32::TransformRow(row, static_cast<int>(k), p.rotation);
  quantize::ShiftRow(p.shift, k, row, place);
  if (p.gatedmul.y != nullptr) quantize::CopyRow(row, place, k, p.gatedmul.y + at);
  quantize::QuantizeRow(p.quantize, blockIdx.x, row, place);
}

// The row in registers.
template <int kPieces>
__global__ void __launch_bounds__(quantize::kMostThreads)
    gatedmulquant_s8r_f32_held_sm80(const __grid_constant__ CudaParams p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t k = p.quantize.k, at = blockIdx.x * k;
  float4 v[kPieces] = {};
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    const int i = quantize::PieceAt(j);
    if (i < k) v[j] = GatedFour(p, at, i);
  }
  quantize::QuantizeHeld(p.quantize, blockIdx.x, p.shift, v, p.gatedmul.y);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  cuda::Shape shape = {.grid = dim3(static_cast<unsigned>(p.quantize.m)), .overlaps = true};
  const unsigned threads = quantize::HoldingThreads(p.quantize);
  if (p.rotation.num_factors == 0 && quantize::Holds(p.quantize, threads)) {
    shape.block = dim3(threads);
    const int64_t pieces = cuda::CeilDiv(p.quantize.q_stride, int64_t{4} * threads);
    const auto kernel = pieces > 4   ? gatedmulquant_s8r_f32_held_sm80<8>
                        : pieces > 2 ? gatedmulquant_s8r_f32_held_sm80<4>
                        : pieces > 1 ? gatedmulquant_s8r_f32_held_sm80<2>
                                     : gatedmulquant_s8r_f32_held_sm80<1>;
    return cuda::Launch("gatedmulquant_s8r_f32", kernel, shape, stream, p);
  }
  shape.block = dim3(quantize::RowThreads(p.quantize.m, p.quantize.k));
  shape.shared_bytes = quantize::FusedBytes(p.quantize.k);
  return cuda::Launch("gatedmulquant_s8r_f32", gatedmulquant_s8r_f32_sm80, shape, stream, p);
}

}  // namespace spikefold::kernels::gatedmulquant_s8r_f32
