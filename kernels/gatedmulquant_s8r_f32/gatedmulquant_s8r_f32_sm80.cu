#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.cuh"
#include "kernels/gatedmulquant_s8r_f32/gatedmulquant_s8r_f32_cuda.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::gatedmulquant_s8r_f32 {
namespace {

namespace quantize = quantize_s8r_f32;

using gatedmul_f32_f32::Activation;

// The row in shared memory.
template <bool kRotates, Activation kActivation>
__global__ void __launch_bounds__(quantize::kMostThreads)
    gatedmulquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t k = p.quantize.k, at = blockIdx.x * k;
  const auto gated = [gate = p.gatedmul.gate + at, up = p.gatedmul.up + at](int i) {
    return gatedmul_f32_f32::Gated(kActivation, gate[i], up[i]);
  };
  if constexpr (kRotates) {
    const auto scaled = [gated, scale = p.rotation.scale](int i) { return gated(i) * scale[i]; };
    quantize::RotateAndQuantizeRow(p.quantize, blockIdx.x, p.rotation, p.shift, scaled, row, p.gatedmul.y);
  } else {
    if (k % 4 == 0) {
#pragma unroll 2
      for (int i = static_cast<int>(threadIdx.x) * 4; i < k; i += static_cast<int>(blockDim.x) * 4) {
        *reinterpret_cast<float4*>(row + i) = gatedmul_f32_f32::GatedFour(p.gatedmul, at + i);
      }
    } else {
      for (int i = static_cast<int>(threadIdx.x); i < k; i += static_cast<int>(blockDim.x)) row[i] = gated(i);
    }
    __syncthreads();
    quantize::ShiftRow(p.shift, k, row);
    quantize::QuantizeRow(p.quantize, blockIdx.x, row, quantize::kInOrder, p.gatedmul.y);
  }
}

// The row in registers.
template <int kPieces>
__global__ void __launch_bounds__(quantize::kMostThreads)
    gatedmulquant_s8r_f32_held_sm80(const __grid_constant__ CudaParams p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t k = p.quantize.k, at = blockIdx.x * k;
  // Loads of some pieces are under way at once.
  constexpr int kBatch = kPieces > 4 ? 2 : kPieces;
  float4 v[kPieces] = {};
#pragma unroll
  for (int begin = 0; begin < kPieces; begin += kBatch) {
    float4 gate[kBatch] = {}, up[kBatch] = {};
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = 4 * static_cast<int>(threadIdx.x + (begin + j) * blockDim.x);
      if (i >= k) continue;
      gate[j] = *reinterpret_cast<const float4*>(p.gatedmul.gate + at + i);
      up[j] = *reinterpret_cast<const float4*>(p.gatedmul.up + at + i);
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      v[begin + j] = gatedmul_f32_f32::GatedFour(p.gatedmul.activation, gate[j], up[j]);
    }
  }
  quantize::QuantizeHeldRow(p.quantize, blockIdx.x, p.shift, v, p.gatedmul.y);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  if (SplitsRows(p) && cuda::IsHopper()) return RunSplit(p, stream);
  cuda::Shape shape = {.grid = dim3(static_cast<unsigned>(p.quantize.m)), .overlaps = true};
  const unsigned threads = quantize::HoldingThreads(p.quantize);
  const bool rotates = p.rotation.num_factors > 0;
  if (!rotates && quantize::Holds(p.quantize, threads)) {
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
  const bool silu = p.gatedmul.activation == Activation::kSilu;
  const auto rotated = silu ? gatedmulquant_s8r_f32_sm80<true, Activation::kSilu>
                            : gatedmulquant_s8r_f32_sm80<true, Activation::kGeluTanh>;
  const auto plain = silu ? gatedmulquant_s8r_f32_sm80<false, Activation::kSilu>
                          : gatedmulquant_s8r_f32_sm80<false, Activation::kGeluTanh>;
  return cuda::Launch("gatedmulquant_s8r_f32", rotates ? rotated : plain, shape, stream, p);
}

}  // namespace spikefold::kernels::gatedmulquant_s8r_f32
