// AVX-512 VNNI: the three bytes of up to 4 rows of x are 12 rows of a tile of matmul_f32_s8r_s8c. For two
// targets, with and without AMX; everything is in an anonymous namespace, a copy a target.
#pragma once

#include "kernels/cpu/dot_avx512.h"
#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

constexpr int kMaxRows = 4;

// 65536 c + 256 b + a in float64, where it is exact, rounded to float32.
inline __m512 Join(__m512i a, __m512i b, __m512i c) {
  const auto half = [](__m256i x, __m256i y, __m256i z) {
    const __m512d high = _mm512_mul_pd(_mm512_cvtepi32_pd(z), _mm512_set1_pd(65536.0));
    const __m512d middle = _mm512_mul_pd(_mm512_cvtepi32_pd(y), _mm512_set1_pd(256.0));
    return _mm512_cvtpd_ps(_mm512_add_pd(_mm512_add_pd(high, middle), _mm512_cvtepi32_pd(x)));
  };
  const __m256 low = half(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b), _mm512_castsi512_si256(c));
  const __m256 high =
      half(_mm512_extracti64x4_epi64(a, 1), _mm512_extracti64x4_epi64(b, 1), _mm512_extracti64x4_epi64(c, 1));
  return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

// From the sums of the bytes of R rows with one panel to outputs.
template <int R>
inline void FinishBytes(const Call& c, int64_t m, int64_t panel, const __m512i (&sum)[kBytes * R][2]) {
  const Params& p = c.params;
  const int64_t n0 = panel * kPanel;
  __m512 acc[R][2];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const int64_t first = n0 + h * kHalf;
    const __m512 scale = _mm512_maskz_loadu_ps(LaneMask(p.n - first), p.w_scale + first);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512 joined = Join(sum[kBytes * r][h], sum[kBytes * r + 1][h], sum[kBytes * r + 2][h]);
      acc[r][h] = _mm512_mul_ps(_mm512_mul_ps(joined, _mm512_set1_ps(c.unit[m + r])), scale);
    }
  }
  FinishRows<R>(p.tail, c.tail, m, panel, p.n, acc, p.y);
}

template <int R>
void Tile(const Call& c, int64_t m, int64_t panel) {
  const int64_t stride = 4 * c.k4;
  __m512i sum[kBytes * R][2];
#pragma GCC unroll 12
  for (int r = 0; r < kBytes * R; ++r) {
    sum[r][0] = sum[r][1] = _mm512_set1_epi32(c.offset[m * kBytes + r]);
  }
  DotRows<kBytes * R>(c.bytes + m * kBytes * stride, stride,
                      static_cast<const uint8_t*>(c.params.w) + panel * c.k4 * kPanelStep, 0, c.k4, sum);
  FinishBytes<R>(c, m, panel, sum);
}

inline void Tiles(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  constexpr void (*kTiles[kMaxRows])(const Call&, int64_t, int64_t) = {Tile<1>, Tile<2>, Tile<3>, Tile<4>};
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    for (int64_t m = m_begin; m < m_end; m += kMaxRows) kTiles[Min(kMaxRows, m_end - m) - 1](c, m, panel);
  }
}

}  // namespace
}  // namespace spikefold::kernels::matmul_f32_f32_s8c
