#include <algorithm>

#include "kernels/argmax_s32_f32/argmax_s32_f32.cuh"
#include "kernels/argmax_s32_f32/argmax_s32_f32_cuda.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::argmax_s32_f32 {
namespace {

constexpr int kThreads = 256, kValues = 16;  // of a thread at a time

__global__ void __launch_bounds__(kThreads) argmax_s32_f32_sm80(CudaParams p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const float* const row = p.x + blockIdx.y * p.n;
  Largest largest;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
#pragma unroll kValues
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.n; i += step) {
    largest.Add(row[i], static_cast<uint32_t>(i));
  }
  const Found found = largest.OfBlock();
  if (threadIdx.x == 0) p.found[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = found;
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
