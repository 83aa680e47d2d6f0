// AVX2: two passes over a row, the second from L1. Four maxima hide the latency of the first.
#include <immintrin.h>

#include <cstdint>

#include "kernels/quantize_s8r_f32/quantize_s8r_f32_isa.h"

namespace spikefold::kernels::quantize_s8r_f32 {
namespace {

inline __m256 Abs(__m256 value) {
  return _mm256_and_ps(value, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}

// The first `count` floats (at most 8), zeros beyond.
inline __m256 LoadFirst(const float* x, int64_t count) {
  const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                                          _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  return _mm256_maskload_ps(x, mask);
}

inline float MaxLane(__m256 all) {
  __m128 low = _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
  low = _mm_max_ps(low, _mm_movehl_ps(low, low));
  return _mm_cvtss_f32(_mm_max_ss(low, _mm_movehdup_ps(low)));
}

float AbsMax(const float* x, int64_t k) {
  __m256 max[4] = {};
  int64_t i = 0;
  for (; i + 32 <= k; i += 32) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) max[j] = _mm256_max_ps(max[j], Abs(_mm256_loadu_ps(x + i + 8 * j)));
  }
  for (; i < k; i += 8) max[0] = _mm256_max_ps(max[0], Abs(LoadFirst(x + i, (k - i < 8 ? k - i : 8))));
  return MaxLane(_mm256_max_ps(_mm256_max_ps(max[0], max[1]), _mm256_max_ps(max[2], max[3])));
}

Range RangeOf(const float* x, int64_t k) {
  __m256 low[2] = {}, high[2] = {};
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256 value = _mm256_loadu_ps(x + i + 8 * j);
      low[j] = _mm256_min_ps(low[j], value);
      high[j] = _mm256_max_ps(high[j], value);
    }
  }
  for (; i < k; i += 8) {
    const __m256 value = LoadFirst(x + i, (k - i < 8 ? k - i : 8));
    low[0] = _mm256_min_ps(low[0], value);
    high[0] = _mm256_max_ps(high[0], value);
  }
  return {-MaxLane(_mm256_sub_ps(_mm256_setzero_ps(), _mm256_min_ps(low[0], low[1]))),
          MaxLane(_mm256_max_ps(high[0], high[1]))};
}

// Whether values round beyond a limit: that of the limit and half a code more may round to even, the limit.
inline int64_t CountOutside(__m256 value, __m256 low, __m256 high) {
  const __m256 round = _mm256_round_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 outside =
      _mm256_or_ps(_mm256_cmp_ps(round, low, _CMP_LT_OQ), _mm256_cmp_ps(round, high, _CMP_GT_OQ));
  return __builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(outside)));
}

int64_t Convert(const float* x, int64_t k, const Grid& grid, int8_t* q) {
  const __m256 inv = _mm256_set1_ps(grid.inv_scale);
  const __m256 low = _mm256_set1_ps(grid.low), high = _mm256_set1_ps(grid.high);
  const __m256i shift = _mm256_set1_epi32(grid.shift);
  int64_t saturated = 0;
  for (int64_t i = 0; i < k; i += 8) {
    const int64_t left = (k - i < 8 ? k - i : 8);
    const __m256 value = _mm256_mul_ps(left == 8 ? _mm256_loadu_ps(x + i) : LoadFirst(x + i, left), inv);
    // Clamping before rounding gives the same code: the limits are integers. NaN gives the lower one.
    const __m256 clamped = _mm256_min_ps(_mm256_max_ps(value, low), high);
    const __m256i codes = _mm256_add_epi32(_mm256_cvtps_epi32(clamped), shift);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    const __m128i bytes = _mm_packs_epi16(words, words);
    if (left == 8) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), bytes);
    } else {
      alignas(16) int8_t rest[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(rest), bytes);
      for (int64_t j = 0; j < left; ++j) q[i + j] = rest[j];
    }
    if (grid.count) saturated += CountOutside(value, low, high);
  }
  return saturated;
}

}  // namespace

const RowFunctions kRowsAvx2 = {AbsMax, RangeOf, Convert};

}  // namespace spikefold::kernels::quantize_s8r_f32
