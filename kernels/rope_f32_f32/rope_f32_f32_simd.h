// rope_f32_f32 for a vector level.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec.h"
#include "kernels/rope_f32_f32/rope_f32_f32_isa.h"

namespace spikefold::kernels::rope_f32_f32 {
namespace {

void RunRows(const Params& p, int64_t m_begin, int64_t m_end) {
  const int64_t half = p.head_dim / 2;
  for (int64_t m = m_begin; m < m_end; ++m) {
    for (int64_t h = 0; h < p.num_heads; ++h) {
      float* x = p.x + (m * p.num_heads + h) * p.head_dim;
      for (int64_t i = 0; i < half; i += kLanes) {
        const int64_t count = half - i;
        const F32 a = LoadN(x + i, count), b = LoadN(x + half + i, count);
        const F32 c = LoadN(p.cos + m * half + i, count), s = LoadN(p.sin + m * half + i, count);
        StoreN(x + i, NegFma(b, s, a * c), count);
        StoreN(x + half + i, Fma(b, c, a * s), count);
      }
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels::rope_f32_f32
