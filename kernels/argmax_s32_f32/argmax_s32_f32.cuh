// The first of the largest values of a row, by the threads of a block.
#pragma once

#include <cstdint>

#include "kernels/argmax_s32_f32/argmax_s32_f32_cuda.h"
#include "kernels/cuda/block.cuh"

namespace spikefold::kernels::argmax_s32_f32 {

// Grows with x, of any sign; 0 and -0 are one.
__device__ inline uint32_t Ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits >> 31 == 0 ? bits | 0x80000000u : ~bits;
}

// Of the values that a thread has met.
struct Largest {
  __device__ void Add(float x, uint32_t index) {
    if (isfinite(x)) {
      top = max(top, static_cast<unsigned long long>(Ordered(x)) << 32 | ~index);
    } else {
      odd = max(odd, ~index);
    }
  }
  // Of all threads, which all get it.
  __device__ Found OfBlock() const {
    const auto larger = [](auto a, auto b) { return max(a, b); };
    return {.top = cuda::BlockReduce(top, larger), .odd = cuda::BlockReduce(odd, larger)};
  }

  unsigned long long top = 0;
  uint32_t odd = 0;
};

}  // namespace spikefold::kernels::argmax_s32_f32
