// kld_f64_f32_f32 for a vector level: maxima, sums of exp, then the divergence.
#pragma once

#include <cstdint>

#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_curvature.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_isa.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32_simd.h"

namespace spikefold::kernels::kld_f64_f32_f32 {
namespace {

struct Sums {
  double kld, rare;  // times sum_p
};

// a = p - max p, b = q - max q; x = a - b - difference, difference = ln sum_p - ln sum_q in two floats.
Sums SumDivergence(const float* p, const float* q, int64_t n, float max_p, float max_q, double sum_p,
                   double sum_q) {
  const double difference = __builtin_log(sum_p) - __builtin_log(sum_q);
  const float difference_high = static_cast<float>(difference);
  const F32 high = Set1(difference_high);
  const F32 low = Set1(static_cast<float>(difference - static_cast<double>(difference_high)));
  const F32 shift_p = Set1(max_p), shift_q = Set1(max_q), one = Set1(1.0f);
  const F32 ratio = Set1(static_cast<float>(sum_p / sum_q));
  const F32 rare = Set1(static_cast<float>(kRareLogP + __builtin_log(sum_p)));
  const auto fma = [](F32 g, F32 y, F32 c) { return Fma(g, y, c); };
  F64 kld_sum[2 * kSumVecs] = {}, rare_sum[2 * kSumVecs] = {};
  for (int64_t i = 0; i < n; i += kSums) {
#pragma GCC unroll 2
    for (int v = 0; v < kSumVecs; ++v) {
      const int64_t at = i + v * kLanes, count = n - at;
      const F32 a = LoadN(p + at, count) - shift_p, b = LoadN(q + at, count) - shift_q;
      const F32 x = ((a - b) - high) - low;
      const F32 e_p = ExpNonPositive(a), e_q = ExpNonPositive(b);
      const F32 near = e_p * (x * x) * CurvatureOf(x, Set1, fma), far = Fma(e_p, x - one, e_q * ratio);
      const F32 term = IfLess(Abs(x), one, near, far);
      const F32 rare_term = IfLess(rare, a, Zero(), e_p * x);
      AddTo(kld_sum, v, KeepFirst(term, count, Zero()));
      AddTo(rare_sum, v, KeepFirst(rare_term, count, Zero()));
    }
  }
  return {SumOfSums(kld_sum), SumOfSums(rare_sum)};
}

RowResult RunOneRow(const float* p, const float* q, int64_t n) {
  const auto top_p = logsumexp_f64_f32::FindTop(p, n), top_q = logsumexp_f64_f32::FindTop(q, n);
  if (!top_p.finite || !top_q.finite) return RowResult{0, 0, 0, 0, 0, 0, false};
  const double sum_p = logsumexp_f64_f32::SumExp(p, n, top_p.value);
  const double sum_q = logsumexp_f64_f32::SumExp(q, n, top_q.value);
  const Sums sums = SumDivergence(p, q, n, top_p.value, top_q.value, sum_p, sum_q);
  return RowResult{__builtin_log(sum_p) + static_cast<double>(top_p.value),
                   __builtin_log(sum_q) + static_cast<double>(top_q.value),
                   sums.kld / sum_p,
                   sums.rare / sum_p,
                   top_p.index,
                   top_q.index,
                   true};
}

}  // namespace
}  // namespace spikefold::kernels::kld_f64_f32_f32
