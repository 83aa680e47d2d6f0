#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32.cuh"
#include "kernels/normquant_s8r_f32/normquant_s8r_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::normquant_s8r_f32 {
namespace {

namespace quantize = quantize_s8r_f32;

// The row in shared memory.
__global__ void __launch_bounds__(quantize::kMostThreads)
    normquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];
  cuda::LetNextStart();
  norm_f32_f32::PrefetchGain(p.norm);
  cuda::WaitForInputs();
  const int64_t k = p.norm.k;
  const quantize::Places place = quantize::PlacesOf(p.rotation);
  norm_f32_f32::NormRow(p.norm, blockIdx.x, row, place, true);
  __syncthreads();
  if (p.rotation.num_factors > 0) {
    hadamard_f32_f32::ScaleRow(row, static_cast<int>(k), p.rotation.scale);
    hadamard_f32_f32::TransformRow(row, static_cast<int>(k), p.rotation);
  }
  quantize::ShiftRow(p.shift, k, row, place);
  if (p.norm.y != nullptr) quantize::CopyRow(row, place, k, p.norm.y + blockIdx.x * k);
  quantize::QuantizeRow(p.quantize, blockIdx.x, row, place);
}

// The row in registers, no more of them than leave room beside a linear's block (norm_f32_f32).
__global__ void __maxnreg__(48) normquant_s8r_f32_held_sm80(const __grid_constant__ CudaParams p) {
  constexpr int kPieces = norm_f32_f32::kHeldValues / 4;
  cuda::LetNextStart();
  norm_f32_f32::PrefetchGain(p.norm);
  cuda::WaitForInputs();
  norm_f32_f32::Floats<4> h[kPieces] = {};
  norm_f32_f32::NormHeldRow(p.norm, blockIdx.x, h);
  float4 v[kPieces];
#pragma unroll
  for (int j = 0; j < kPieces; ++j) v[j] = make_float4(h[j].v[0], h[j].v[1], h[j].v[2], h[j].v[3]);
  quantize::QuantizeHeld(p.quantize, blockIdx.x, p.shift, v, p.norm.y);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  cuda::Shape shape = {.grid = dim3(static_cast<unsigned>(p.quantize.m)), .overlaps = true};
  const unsigned threads = norm_f32_f32::HoldingThreads(p.quantize.q_stride);
  const bool holds = p.quantize.q_stride <= int64_t{threads} * norm_f32_f32::kHeldValues &&
                     quantize::Holds(p.quantize, threads);
  if (p.rotation.num_factors == 0 && p.quantize.m <= quantize::kFewRows && holds) {
    shape.block = dim3(threads);
    return cuda::Launch("normquant_s8r_f32", normquant_s8r_f32_held_sm80, shape, stream, p);
  }
  shape.block = dim3(quantize::RowThreads(p.quantize.m, p.quantize.k));
  shape.shared_bytes = quantize::FusedBytes(p.quantize.k);
  return cuda::Launch("normquant_s8r_f32", normquant_s8r_f32_sm80, shape, stream, p);
}

}  // namespace spikefold::kernels::normquant_s8r_f32
