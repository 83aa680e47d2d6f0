#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32.cuh"

namespace spikefold::kernels::norm_f32_f32 {
namespace {

// Few rows leave multiprocessors idle, and get as many threads as keep the row in registers, or all that
// there are. No more: a block of the linears before or after, which fills most of a multiprocessor, leaves
// some 25,000 registers, and who does not fit beside it makes others wait.
constexpr int kThreads = 256, kManyThreads = kMostHoldingThreads;
constexpr int64_t kFewRows = 64;
template <bool kHolds>  // the row in registers
__global__ void __maxnreg__(kHolds ? 48 : 64) norm_f32_f32_sm80(const __grid_constant__ CudaParams p) {
  cuda::LetNextStart();
  PrefetchGain(p);
  cuda::WaitForInputs();
  float* const y = p.y + blockIdx.x * p.k;
  const auto in_order = [](int i) { return i; };
  if constexpr (kHolds) {
    NormHeldRowTo<4, kHeldValues / 4>(p, blockIdx.x, y, in_order);
  } else {
    NormRow(p, blockIdx.x, y, in_order, false);
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
