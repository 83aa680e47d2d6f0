// logsumexp_f64_f32 for a vector level; kld_f64_f32_f32 uses the same passes.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec_math.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32_isa.h"

namespace spikefold::kernels::logsumexp_f64_f32 {
namespace {

struct Top {
  float value;
  int64_t index;
  bool finite;
};

// Largest value and where it comes first. The index is looked for only in blocks that raise the maximum.
Top FindTop(const float* x, int64_t n) {
  constexpr int64_t kBlock = 64 * kLanes;
  const F32 lowest = Set1(-__builtin_inff());
  Top top = {-__builtin_inff(), 0, true};
  F32 zero = Zero();  // 0 * x stays 0 unless x is NaN or infinite
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = MinOf(begin + kBlock, n);
    F32 max = lowest;
    for (int64_t i = begin; i < end; i += kLanes) {
      const F32 v = LoadN(x + i, end - i);
      zero = Fma(v, Zero(), zero);
      max = Max(max, KeepFirst(v, end - i, lowest));
    }
    const float block_max = MaxLane(max);
    if (!(block_max > top.value)) continue;
    top.value = block_max;
    top.index = begin;
    while (x[top.index] != block_max) ++top.index;
  }
  top.finite = EqualBits(zero, Zero()) == (1u << kLanes) - 1u;
  return top;
}

// sum_n exp(x - max)
double SumExp(const float* x, int64_t n, float max) {
  const F32 shift = Set1(max), lowest = Set1(-__builtin_inff());
  F64 sum[2 * kSumVecs] = {};
  for (int64_t i = 0; i < n; i += kSums) {
#pragma GCC unroll 2
    for (int v = 0; v < kSumVecs; ++v) {
      const int64_t at = i + v * kLanes, count = n - at;
      AddTo(sum, v, ExpNonPositive(KeepFirst(LoadN(x + at, count), count, lowest) - shift));
    }
  }
  return SumOfSums(sum);
}

inline RowResult RunOneRow(const float* x, int64_t n) {
  const Top top = FindTop(x, n);
  if (!top.finite) return RowResult{0, 0, false};
  const double sum = SumExp(x, n, top.value);
  return RowResult{__builtin_log(sum) + static_cast<double>(top.value), top.index, true};
}

}  // namespace
}  // namespace spikefold::kernels::logsumexp_f64_f32
