// AVX2. vpmaddubsw wants an unsigned and a signed byte: |w| and x with w's sign. Two products reach 2 *
// 127^2, below 2^15, so nothing saturates, and they are widened at once. A register tile is 4 rows x 16
// channels.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

constexpr int kMaxRows = 4;

inline __m256i Broadcast4(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm256_set1_epi32(four);
}

// 8 channels x 4 codes as they are stored, back to signed.
inline __m256i LoadSigned(const uint8_t* w) {
  return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)), _mm256_set1_epi8(-128));
}

template <int R>
void Tile(const Call& c, int64_t m, int64_t n0) {
  const Params& p = c.params;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum[R][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_si256();
  const int8_t* x = c.x + m * c.x_stride;
  const uint8_t* w = c.w + (n0 / kPanel - c.first_panel) * (c.k4 * kPanel * 4) + n0 % kPanel * 4;
  for (int64_t i = 0; i < c.k4; ++i) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i signed_w = LoadSigned(w + i * 128 + h * 32);
      const __m256i abs_w = _mm256_abs_epi8(signed_w);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256i signed_x = _mm256_sign_epi8(Broadcast4(x + r * c.x_stride + 4 * i), signed_w);
        const __m256i pairs = _mm256_maddubs_epi16(abs_w, signed_x);
        sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(pairs, ones));
      }
    }
  }
  __m256 acc[R][2];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const int64_t first = n0 + h * kLanes;
    const __m256i mask = LaneMask(p.n - first);
    const __m256 w_scale = _mm256_maskload_ps(p.w_scale + first, mask);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if (p.x_zero != nullptr) {
        const __m256i code_sum = _mm256_maskload_epi32(p.w_code_sum + first, mask);
        sum[r][h] =
            _mm256_sub_epi32(sum[r][h], _mm256_mullo_epi32(_mm256_set1_epi32(p.x_zero[m + r]), code_sum));
      }
      if (p.sums != nullptr) _mm256_maskstore_epi32(p.sums + (m + r) * p.n + first, mask, sum[r][h]);
      const __m256 x_scale = _mm256_set1_ps(p.x_scale[(m + r) * p.x_scale_stride]);
      acc[r][h] = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][h]), x_scale), w_scale);
    }
  }
  FinishRows<R>(p.tail, c.tail, m, n0, p.n, acc, p.y);
}

}  // namespace

void TilesAvx2(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  constexpr void (*kTiles[kMaxRows])(const Call&, int64_t, int64_t) = {Tile<1>, Tile<2>, Tile<3>, Tile<4>};
  for (int64_t n0 = p_begin * kPanel; n0 < Min(p_end * kPanel, c.params.n); n0 += kColumns) {
    for (int64_t m = m_begin; m < m_end; m += kMaxRows) {
      kTiles[Min(kMaxRows, m_end - m) - 1](c, m, n0);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
