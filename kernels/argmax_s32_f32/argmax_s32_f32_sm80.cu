#include <algorithm>

#include "kernels/argmax_s32_f32/argmax_s32_f32_cuda.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::argmax_s32_f32 {
namespace {

constexpr int kThreads = 256, kValues = 16;  // of a thread at a time

// Grows with x, of any sign; 0 and -0 are one.
__device__ uint32_t Ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 == 0 ? bits | 0x80000000u : ~bits;
}

__global__ void __launch_bounds__(kThreads) argmax_s32_f32_sm80(CudaParams p) {
  __shared__ unsigned long long tops[kThreads / cuda::kWarp];
  __shared__ uint32_t odds[kThreads / cuda::kWarp];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const float* const row = p.x + blockIdx.y * p.n;
  unsigned long long top = 0;
  uint32_t odd = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll kValues
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.n; i += step) {
    const float x = row[i];
    const uint32_t place = ~static_cast<uint32_t>(i);
    if (isfinite(x)) {
      top = max(top, static_cast<unsigned long long>(Ordered(x)) << 32 | place);
    } else {
      odd = max(odd, place);
    }
  }
  for (int offset = cuda::kWarp / 2; offset > 0; offset /= 2) {
    top = max(top, __shfl_xor_sync(0xffffffffu, top, offset));
    odd = max(odd, __shfl_xor_sync(0xffffffffu, odd, offset));
  }
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  if (threadIdx.x % cuda::kWarp == 0) {
    tops[warp] = top;
    odds[warp] = odd;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / cuda::kWarp; ++w) {
    top = max(top, tops[w]);
    odd = max(odd, odds[w]);
  }
  p.found[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = {.top = top, .odd = odd};
}

}  // namespace

int64_t NumParts(int64_t n) {
  constexpr int64_t kMost = 32;
  return std::clamp<int64_t>(cuda::CeilDiv(n, kThreads * kValues), 1, kMost);
}

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  return cuda::Launch("argmax_s32_f32", argmax_s32_f32_sm80,
                      {.grid = dim3(static_cast<unsigned>(NumParts(p.n)), static_cast<unsigned>(p.m)),
                       .block = dim3(kThreads),
                       .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::argmax_s32_f32
