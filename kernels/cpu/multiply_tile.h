// The inner loop of float matrix products, for files that may include vec.h.
#pragma once

#include "kernels/cpu/vec.h"

namespace spikefold::kernels {
namespace {

// sum[r][v] += sum_k a[r, k] * b[k, v-th vector], k in order, one fused multiply-add a step: so an element
// does not depend on the tile's height. a: [kRows, k], rows a_stride apart; b: [k, kVecs * kLanes], b_stride
// apart. One step loads kVecs vectors of b (prefetched `ahead` floats before) and broadcasts kRows elements
// of a. Without kPrefetch b lies in the first-level cache already.
template <int kRows, int kVecs, bool kPrefetch = true>
SF_INLINE void MultiplyTile(F32 (&sum)[kRows][kVecs], const float* a, int64_t a_stride, const float* b,
                            int64_t b_stride, int64_t k_count, const float* prefetch,
                            int64_t prefetch_stride) {
  // One pointer for three rows: more would not fit the general registers.
  constexpr int kPointers = (kRows + 2) / 3;
  const float* row[kPointers];
#pragma GCC unroll 8
  for (int i = 0; i < kPointers; ++i) row[i] = a + 3 * i * a_stride;
  for (int64_t k = 0; k < k_count; ++k) {
    F32 column[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; ++v) column[v] = Load(b + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const F32 value = Set1(row[r / 3][r % 3 * a_stride + k]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Fma(value, column[v], sum[r][v]);
    }
    if constexpr (kPrefetch) {
#pragma GCC unroll 4
      for (int line = 0; line < kVecs * kLanes; line += 16) Prefetch(prefetch + line);
      prefetch += prefetch_stride;
    }
    b += b_stride;
  }
}

}  // namespace
}  // namespace spikefold::kernels
