// norm_f32_f32 for a vector level: two passes over a row that lies in L1.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec.h"
#include "kernels/norm_f32_f32/norm_f32_f32_isa.h"

namespace spikefold::kernels::norm_f32_f32 {
namespace {

double SumOfSquares(const float* x, int64_t k) {
  F64 sum[2 * kSumVecs] = {};
  for (int64_t i = 0; i < k; i += kSums) {
#pragma GCC unroll 2
    for (int v = 0; v < kSumVecs; ++v) {
      const int64_t at = i + v * kLanes;
      const F32 values = LoadN(x + at, k - at);
      const F64 low = LowF64(values), high = HighF64(values);
      sum[2 * v] = FmaF64(low, low, sum[2 * v]);
      sum[2 * v + 1] = FmaF64(high, high, sum[2 * v + 1]);
    }
  }
  return SumOfSums(sum);
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
