// AVX-512: two passes over a row, the second from L1. Four maxima hide the latency of the first.
#include <immintrin.h>

#include <cstdint>

#include "kernels/quantize_s8r_f32/quantize_s8r_f32_isa.h"

namespace spikefold::kernels::quantize_s8r_f32 {
namespace {

inline __mmask16 FirstLanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

float AbsMax(const float* x, int64_t k) {
  __m512 max[4] = {};
  int64_t i = 0;
  for (; i + 64 <= k; i += 64) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      max[j] = _mm512_max_ps(max[j], _mm512_abs_ps(_mm512_loadu_ps(x + i + 16 * j)));
  }
  for (; i + 16 <= k; i += 16) max[0] = _mm512_max_ps(max[0], _mm512_abs_ps(_mm512_loadu_ps(x + i)));
  if (i < k) max[0] = _mm512_max_ps(max[0], _mm512_abs_ps(_mm512_maskz_loadu_ps(FirstLanes(k - i), x + i)));
  return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(max[0], max[1]), _mm512_max_ps(max[2], max[3])));
}

Range RangeOf(const float* x, int64_t k) {
  __m512 low[2] = {}, high[2] = {};
  int64_t i = 0;
  for (; i + 32 <= k; i += 32) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512 value = _mm512_loadu_ps(x + i + 16 * j);
      low[j] = _mm512_min_ps(low[j], value);
      high[j] = _mm512_max_ps(high[j], value);
    }
  }
  for (; i < k; i += 16) {
    const __m512 value = _mm512_maskz_loadu_ps(FirstLanes(k - i < 16 ? k - i : 16), x + i);
    low[0] = _mm512_min_ps(low[0], value);
    high[0] = _mm512_max_ps(high[0], value);
  }
  return {_mm512_reduce_min_ps(_mm512_min_ps(low[0], low[1])),
          _mm512_reduce_max_ps(_mm512_max_ps(high[0], high[1]))};
}

template <bool kCount>
int64_t ConvertRow(const float* x, int64_t k, const Grid& grid, int8_t* q) {
  const __m512 inv = _mm512_set1_ps(grid.inv_scale);
  const __m512 low = _mm512_set1_ps(grid.low), high = _mm512_set1_ps(grid.high);
  const __m512i shift = _mm512_set1_epi32(grid.shift);
  // Clamping before rounding gives the same code: the limits are integers. NaN gives the lower one.
  const auto codes = [&](__m512 value) __attribute__((always_inline)) {
    const __m512 clamped = _mm512_min_ps(_mm512_max_ps(value, low), high);
    return _mm512_cvtsepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(clamped), shift));
  };
  const auto outside = [&](__m512 value) __attribute__((always_inline)) {
    const __m512 round = _mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return __builtin_popcount(_mm512_cmp_ps_mask(round, low, _CMP_LT_OQ) |
                              _mm512_cmp_ps_mask(round, high, _CMP_GT_OQ));
  };
  int64_t saturated = 0;
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) {
    const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(x + i), inv);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), codes(value));
    if constexpr (kCount) saturated += outside(value);
  }
  if (i < k) {
    const __mmask16 mask = FirstLanes(k - i);
    const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inv);
    _mm_mask_storeu_epi8(q + i, mask, codes(value));
    if constexpr (kCount) saturated += outside(value);
  }
  return saturated;
}

int64_t Convert(const float* x, int64_t k, const Grid& grid, int8_t* q) {
  return grid.count ? ConvertRow<true>(x, k, grid, q) : ConvertRow<false>(x, k, grid, q);
}

}  // namespace

const RowFunctions kRowsAvx512 = {AbsMax, RangeOf, Convert};

}  // namespace spikefold::kernels::quantize_s8r_f32
