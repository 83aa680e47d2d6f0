// The special function unit: PTX behind C++ names.
#pragma once

namespace spikefold::kernels::cuda {

// 2^x to two units in the last place; 0 below 2^-126.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace spikefold::kernels::cuda
