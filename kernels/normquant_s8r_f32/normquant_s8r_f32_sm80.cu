#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32.cuh"
#include "kernels/normquant_s8r_f32/normquant_s8r_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::normquant_s8r_f32 {
namespace {

namespace quantize = quantize_s8r_f32;

// The row in shared memory. A norm and a rotation together want more registers than 1024 threads leave.
template <bool kRotates>
inline constexpr unsigned kMostThreads = kRotates ? 512 : quantize::kMostThreads;
template <bool kRotates>
__global__ void __launch_bounds__(kMostThreads<kRotates>, 1)
    normquant_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(16) float row[];
  cuda::LetNextStart();
  norm_f32_f32::PrefetchGain(p.norm);
  cuda::WaitForInputs();
  const quantize::Places place = kRotates ? quantize::Places() : quantize::kInOrder;
  norm_f32_f32::NormRow(p.norm, blockIdx.x, row, place, true);
  __syncthreads();
  if constexpr (kRotates) {
    const hadamard_f32_f32::InPlace normed = {row};
    const auto scaled = [normed, scale = p.rotation.scale](int i) { return normed(i) * scale[i]; };
    quantize::RotateAndQuantizeRow(p.quantize, blockIdx.x, p.rotation, p.shift, scaled, row, p.norm.y);
  } else {
    quantize::ShiftRow(p.shift, p.norm.k, row);
    quantize::QuantizeRow(p.quantize, blockIdx.x, row, place, p.norm.y);
  }
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
  quantize::QuantizeHeldRow(p.quantize, blockIdx.x, p.shift, v, p.norm.y);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.quantize.m == 0) return absl::OkStatus();
  cuda::Shape shape = {.grid = dim3(static_cast<unsigned>(p.quantize.m)), .overlaps = true};
  const unsigned threads = norm_f32_f32::HoldingThreads(p.quantize.q_stride);
  const bool holds = p.quantize.q_stride <= int64_t{threads} * norm_f32_f32::kHeldValues &&
                     quantize::Holds(p.quantize, threads);
  const bool rotates = p.rotation.num_factors > 0;
  if (!rotates && p.quantize.m <= quantize::kFewRows && holds) {
    shape.block = dim3(threads);
    return cuda::Launch("normquant_s8r_f32", normquant_s8r_f32_held_sm80, shape, stream, p);
  }
  const unsigned most = rotates ? kMostThreads<true> : kMostThreads<false>;
  shape.block = dim3(std::min(quantize::RowThreads(p.quantize.m, p.quantize.k), most));
  shape.shared_bytes = quantize::FusedBytes(p.quantize.k);
  return cuda::Launch("normquant_s8r_f32",
                      rotates ? normquant_s8r_f32_sm80<true> : normquant_s8r_f32_sm80<false>, shape, stream,
                      p);
}

}  // namespace spikefold::kernels::normquant_s8r_f32
