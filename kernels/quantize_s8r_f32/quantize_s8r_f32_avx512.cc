// AVX-512: two passes over a row, the second from L1. Four maxima hide the latency of the first.
#include <immintrin.h>

#include <cstdint>

#include "kernels/numeric.h"
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

// Clamping before rounding gives the same code: the limits are integers.
inline __m128i Codes(__m512 value) {
  const __m512 limit = _mm512_set1_ps(kS8Max);
  const __m512 low = _mm512_max_ps(value, _mm512_sub_ps(_mm512_setzero_ps(), limit));  // NaN gives -limit
  return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_min_ps(low, limit)));
}

template <bool kCount>
int64_t ConvertRow(const float* x, int64_t k, float inv_scale, int8_t* q) {
  const __m512 inv = _mm512_set1_ps(inv_scale);
  // |value| rounds beyond the largest code from half a code above it on; that half itself rounds to even,
  // 128.
  const __m512 edge = _mm512_set1_ps(kS8Max + 0.5f);
  int64_t saturated = 0;
  int64_t i = 0;
  for (; i + 16 <= k; i += 16) {
    const __m512 value = _mm512_mul_ps(_mm512_loadu_ps(x + i), inv);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), Codes(value));
    if constexpr (kCount) {
      saturated += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_abs_ps(value), edge, _CMP_GE_OQ));
    }
  }
  if (i < k) {
    const __mmask16 mask = FirstLanes(k - i);
    const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inv);
    _mm_mask_storeu_epi8(q + i, mask, Codes(value));
    if constexpr (kCount) {
      saturated += __builtin_popcount(_mm512_cmp_ps_mask(_mm512_abs_ps(value), edge, _CMP_GE_OQ));
    }
  }
  return saturated;
}

int64_t Convert(const float* x, int64_t k, float inv_scale, bool count, int8_t* q) {
  return count ? ConvertRow<true>(x, k, inv_scale, q) : ConvertRow<false>(x, k, inv_scale, q);
}

}  // namespace

const RowFunctions kRowsAvx512 = {AbsMax, Convert};

}  // namespace spikefold::kernels::quantize_s8r_f32
