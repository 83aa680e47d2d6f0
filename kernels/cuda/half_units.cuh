// Float rows as f16 under a power of two that puts their largest value into [2^14, 2^15), as operands of the
// tensor cores.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace spikefold::kernels::cuda::half {

// By the bits, without the sign, of the largest value. NaN for what is not finite.
__device__ inline uint32_t ExponentOf(uint32_t largest) {
  constexpr uint32_t kLeast = 15;  // smaller exponents would leave the range of normal numbers
  return max(largest >> 23, kLeast);
}
__device__ inline float ScaleOf(uint32_t largest) {
  const uint32_t exponent = ExponentOf(largest);
  return __uint_as_float(exponent == 255 ? 0x7fc00000u : (exponent - 14) << 23);
}
__device__ inline float InverseScaleOf(uint32_t largest) {
  return __uint_as_float((268 - min(ExponentOf(largest), 254u)) << 23);
}
// The larger of `size` and |x|; NaN if either is.
__device__ inline float LargerSize(float size, float x) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(size), "f"(fabsf(x)));
  return larger;
}
// Two values as f16, or what is left of them.
__device__ inline uint32_t F16(float x, float y, bool rest) {
  __half2 v = __floats2half2_rn(x, y);
  if (rest) {
    const float2 rounded = __half22float2(v);
    v = __floats2half2_rn(x - rounded.x, y - rounded.y);
  }
  return *reinterpret_cast<const uint32_t*>(&v);
}

}  // namespace spikefold::kernels::cuda::half
