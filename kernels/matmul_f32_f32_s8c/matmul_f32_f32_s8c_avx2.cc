// AVX2 + FMA. A register tile is up to 4 rows x 16 channels. Few rows decode the codes in registers; from
// kDecodeRows rows on, half a panel is decoded once into a buffer and all rows pass over it.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

constexpr int kMaxRows = 4;

// Byte j of every lane as a float, minus 128: 2^23 + byte is the float whose mantissa ends in that byte.
template <int j>
inline __m256 DecodeByte(__m256i codes) {
  const __m256i byte = _mm256_and_si256(_mm256_srli_epi32(codes, 8 * j), _mm256_set1_epi32(0xff));
  const __m256i with_exponent = _mm256_or_si256(byte, _mm256_set1_epi32(0x4b000000));
  return _mm256_sub_ps(_mm256_castsi256_ps(with_exponent), _mm256_set1_ps(8388608.0f + 128.0f));
}

inline __m256i Load(const uint8_t* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }

const uint8_t* Codes(const Call& c, int64_t n0) {
  return static_cast<const uint8_t*>(c.params.w) + n0 / kPanel * (c.k4 * kPanel * 4) + n0 % kPanel * 4;
}

template <int R>
void Tile(const Call& c, int64_t m, int64_t n0) {
  const Params& p = c.params;
  __m256 acc[R][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  const float* x = c.x + m * c.x_stride;
  const auto add = [&](int64_t k, __m256 w0, __m256 w1) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256 xr = _mm256_set1_ps(x[r * c.x_stride + k]);
      acc[r][0] = _mm256_fmadd_ps(xr, w0, acc[r][0]);
      acc[r][1] = _mm256_fmadd_ps(xr, w1, acc[r][1]);
    }
  };
  const uint8_t* w = Codes(c, n0);
  for (int64_t i = 0; i < c.k4; ++i) {
    const __m256i codes0 = Load(w + i * 128), codes1 = Load(w + i * 128 + 32);
    add(4 * i, DecodeByte<0>(codes0), DecodeByte<0>(codes1));
    add(4 * i + 1, DecodeByte<1>(codes0), DecodeByte<1>(codes1));
    add(4 * i + 2, DecodeByte<2>(codes0), DecodeByte<2>(codes1));
    add(4 * i + 3, DecodeByte<3>(codes0), DecodeByte<3>(codes1));
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const int64_t first = n0 + h * kLanes;
    const __m256 w_scale = _mm256_maskload_ps(p.w_scale + first, LaneMask(p.n - first));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[r][h] = _mm256_mul_ps(acc[r][h], w_scale);
  }
  FinishRows<R>(p.tail, c.tail, m, n0, p.n, acc, p.y);
}

}  // namespace

void TilesAvx2(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  constexpr void (*kTiles[kMaxRows])(const Call&, int64_t, int64_t) = {Tile<1>, Tile<2>, Tile<3>, Tile<4>};
  for (int64_t n0 = p_begin * kPanel; n0 < Min(p_end * kPanel, c.params.n); n0 += kColumns) {
    for (int64_t m = m_begin; m < m_end; m += kMaxRows) {
      const auto tile = kTiles[Min(kMaxRows, m_end - m) - 1];
      tile(c, m, n0);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
