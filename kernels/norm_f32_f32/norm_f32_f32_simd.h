// norm_f32_f32 for a vector level: two passes over a row that lies in L1.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec.h"
#include "kernels/norm_f32_f32/norm_f32_f32_isa.h"

namespace spikefold::kernels::norm_f32_f32 {
namespace {

double SumOfSquares(const float* x, int64_t k) {
  F64 even = ZeroF64(), odd = ZeroF64();
  for (int64_t i = 0; i < k; i += kLanes) {
    const F32 v = LoadN(x + i, k - i);
    const F64 low = LowF64(v), high = HighF64(v);
    even = FmaF64(low, low, even);
    odd = FmaF64(high, high, odd);
  }
  return SumF64(even + odd);
}

void RunRows(const Params& p, int64_t m_begin, int64_t m_end) {
  for (int64_t m = m_begin; m < m_end; ++m) {
    const float* x = p.x + m * p.k;
    float* y = p.y + m * p.k;
    const double mean = SumOfSquares(x, p.k) / static_cast<double>(p.k);
    const F32 factor = Set1(static_cast<float>(1 / __builtin_sqrt(mean + static_cast<double>(p.eps))));
    for (int64_t i = 0; i < p.k; i += kLanes) {
      StoreN(y + i, LoadN(x + i, p.k - i) * factor * LoadN(p.gain + i, p.k - i), p.k - i);
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels::norm_f32_f32
