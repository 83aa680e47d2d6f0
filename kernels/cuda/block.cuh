// What a block of threads does together.
#pragma once

#include <cstdint>

#include "kernels/cuda/ceil_div.h"

namespace spikefold::kernels::cuda {

inline constexpr int kWarp = 32;

// combine(a, b) over all threads of the block, in a fixed order; every thread gets the result. blockDim.x is
// 32 times a power of two, at most 1024. `combine` must be commutative.
template <typename T, typename Combine>
__device__ inline T BlockReduce(T value, Combine combine) {
  __shared__ T partial[kWarp];
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = static_cast<int>(blockDim.x) / kWarp;
  __syncthreads();  // an earlier reduction may still be read
  if (threadIdx.x % kWarp == 0) partial[warp] = value;
  __syncthreads();
  // Each warp combines all parts: a chain of 5 steps instead of 32.
  T result = partial[static_cast<int>(threadIdx.x) % warps];
  for (int offset = warps / 2; offset > 0; offset /= 2) {
    result = combine(result, __shfl_xor_sync(0xffffffffu, result, offset));
  }
  return result;
}

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

}  // namespace spikefold::kernels::cuda
