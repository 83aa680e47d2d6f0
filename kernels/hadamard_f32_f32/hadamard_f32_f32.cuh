// A block of threads transforms one Hadamard block in shared memory.
#pragma once

#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"

namespace spikefold::kernels::hadamard_f32_f32 {

// x [plan.block] is scaled already and visible to all threads; `other` is as large. Returns where the result
// is: x or other, visible to all threads.
__device__ inline float* Transform(float* x, float* other, const CudaPlan& plan) {
  int inner = plan.block;  // distance of neighbours along the factor
  for (int f = 0; f + 1 < plan.num_factors; ++f) {
    const int order = plan.order[f];
    inner /= order;
    for (int i = static_cast<int>(threadIdx.x); i < plan.block; i += static_cast<int>(blockDim.x)) {
      const int column = i / inner % order;
      const float* from = x + (i - column * inner);
      float sum = 0;
      for (int k = 0; k < order; ++k) {
        sum += from[k * inner] * static_cast<float>(plan.table[f][k * order + column]);
      }
      other[i] = sum;
    }
    __syncthreads();
    float* swap = x;
    x = other;
    other = swap;
  }
  const int power = plan.order[plan.num_factors - 1];
  for (int half = 1; half < power; half *= 2) {
    for (int i = static_cast<int>(threadIdx.x); i < plan.block / 2; i += static_cast<int>(blockDim.x)) {
      const int low = i / half * (2 * half) + i % half;
      const float a = x[low], b = x[low + half];
      x[low] = a + b;
      x[low + half] = a - b;
    }
    __syncthreads();
  }
  return x;
}

// A whole row x [n] in shared memory, all blocks of it; `other` is as large as one block. The row must be
// visible to all threads before, and is after.
__device__ inline void TransformRow(float* x, float* other, int64_t n, const CudaPlan& plan) {
  for (int64_t first = 0; first < n; first += plan.block) {
    float* block = x + first;
    for (int i = static_cast<int>(threadIdx.x); i < plan.block; i += static_cast<int>(blockDim.x)) {
      block[i] = block[i] * plan.scale[first + i];
    }
    __syncthreads();
    const float* y = Transform(block, other, plan);
    if (y == block) continue;
    for (int i = static_cast<int>(threadIdx.x); i < plan.block; i += static_cast<int>(blockDim.x))
      block[i] = y[i];
    __syncthreads();
  }
}

}  // namespace spikefold::kernels::hadamard_f32_f32
