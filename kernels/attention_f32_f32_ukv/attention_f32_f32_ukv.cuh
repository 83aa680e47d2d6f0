// What both kernels do when the context is split over blocks: leave a part each, and merge them in order.
#pragma once

#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_cuda.h"
#include "kernels/kv_page.cuh"

namespace spikefold::kernels::attention_f32_f32_ukv {

// The part of a split of row `row` of [rows, num_heads]: values [head_dim], maximum, total.
__device__ inline float* PartialOf(const CudaParams& p, int64_t row, int64_t split) {
  return p.partial + (row * p.splits + split) * (p.layer.format.head_dim + 2);
}

// By all threads of a block that has written its part: whether it is the last of its row's splits. Then the
// counter is zero again and every part is visible.
__device__ inline bool IsLastSplit(const CudaParams& p, unsigned* counter) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(counter, 1u) + 1 == static_cast<unsigned>(p.splits);
  __syncthreads();
  if (!last) return false;
  __threadfence();
  if (threadIdx.x == 0) *counter = 0;
  return true;
}

// exp: of the maxima's base.
template <typename Exp>
__device__ float MergedValue(const CudaParams& p, int64_t row, int column, Exp exp) {
  const int d = static_cast<int>(p.layer.format.head_dim);
  float max = -INFINITY, value = 0, total = 0;
  for (int64_t s = 0; s < p.splits; ++s) max = fmaxf(max, PartialOf(p, row, s)[d]);
  for (int64_t s = 0; s < p.splits; ++s) {
    const float* const part = PartialOf(p, row, s);
    const float weight = max == -INFINITY ? 0.0f : exp(part[d] - max);
    value = fmaf(part[column], weight, value);
    total = fmaf(part[d + 1], weight, total);
  }
  return value / total;
}

}  // namespace spikefold::kernels::attention_f32_f32_ukv
