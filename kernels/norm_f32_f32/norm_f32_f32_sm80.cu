#include <algorithm>
#include <bit>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32.cuh"

namespace spikefold::kernels::norm_f32_f32 {
namespace {

// Few rows leave multiprocessors idle, and get as many threads as keep the row in registers, or all that
// there are. No more: a block of the linears before or after, which fills most of a multiprocessor, leaves
// some 25,000 registers, and who does not fit beside it makes others wait.
constexpr int kThreads = 256, kManyThreads = 1024;
constexpr int64_t kFewRows = 64;
unsigned HoldingThreads(int64_t k) {
  return static_cast<unsigned>(std::clamp<int64_t>(
      std::bit_ceil(static_cast<uint64_t>(cuda::CeilDiv(k, kHeldValues))), 128, kManyThreads));
}

template <bool kHolds>  // the row in registers
__global__ void __maxnreg__(kHolds ? 48 : 64) norm_f32_f32_sm80(const __grid_constant__ CudaParams p) {
  cuda::LetNextStart();
  PrefetchGain(p);
  cuda::WaitForInputs();
  float* const y = p.y + blockIdx.x * p.k;
  if constexpr (kHolds) {
    NormHeldRow<4, kHeldValues / 4>(p, blockIdx.x, y);
  } else {
    NormRow(p, blockIdx.x, y, false);
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  unsigned threads = p.m > kFewRows ? kThreads : HoldingThreads(p.k);
  const bool holds = p.gain != nullptr && p.k % 4 == 0 && p.k <= int64_t{threads} * kHeldValues;
  if (!holds && p.m <= kFewRows) threads = kManyThreads;
  return cuda::Launch("norm_f32_f32", holds ? norm_f32_f32_sm80<true> : norm_f32_f32_sm80<false>,
                      {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(threads), .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::norm_f32_f32
