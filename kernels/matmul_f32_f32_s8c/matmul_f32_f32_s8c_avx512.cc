// AVX-512. A register tile is up to 12 rows x 32 channels. Few rows decode the codes in registers (11
// operations for 64 codes, about what one core's share of memory delivers); from kDecodeRows rows on, a panel
// is decoded once into a buffer that stays in L2 and all rows pass over it.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

constexpr int kMaxRows = 12;

// Byte j of every lane as a float, minus 128: 2^23 + byte is the float whose mantissa ends in that byte.
template <int j>
inline __m512 DecodeByte(__m512i codes) {
  const __m512i shifted = j == 0 ? codes : _mm512_srli_epi32(codes, 8 * j);
  const __m512i with_exponent = _mm512_ternarylogic_epi32(  // (shifted & 0xff) | 2^23
      shifted, _mm512_set1_epi32(0xff), _mm512_set1_epi32(0x4b000000), 0xea);
  return _mm512_sub_ps(_mm512_castsi512_ps(with_exponent), _mm512_set1_ps(8388608.0f + 128.0f));
}

// The floats of a panel, [4 * k4][32].
void Decode(const uint8_t* w, int64_t k4, float* out) {
  for (int64_t i = 0; i < 2 * k4; ++i) {  // 64 codes: 16 channels of step i / 2
    const __m512i codes = _mm512_loadu_si512(w + i * 64);
    float* to = out + i / 2 * (4 * kPanel) + i % 2 * kHalf;
    _mm512_storeu_ps(to, DecodeByte<0>(codes));
    _mm512_storeu_ps(to + kPanel, DecodeByte<1>(codes));
    _mm512_storeu_ps(to + 2 * kPanel, DecodeByte<2>(codes));
    _mm512_storeu_ps(to + 3 * kPanel, DecodeByte<3>(codes));
  }
}

// `decoded` is the panel's floats, or null: from the codes.
template <int R>
void Tile(const Call& c, int64_t m, int64_t panel, const float* decoded) {
  const Params& p = c.params;
  const int64_t n0 = panel * kPanel, stride = c.x_stride;
  __m512 acc[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
  // Rows lie at base, base + stride, base + 2 * stride of every third pointer: addresses x86 forms for free.
  constexpr int kBases = (R + 2) / 3;
  const float* base[kBases];
#pragma GCC unroll 4
  for (int b = 0; b < kBases; ++b) base[b] = c.x + (m + 3 * b) * stride;
  const auto add = [&](int64_t k, __m512 w0, __m512 w1) __attribute__((always_inline)) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512 x = _mm512_set1_ps(base[r / 3][r % 3 * stride + k]);
      acc[r][0] = _mm512_fmadd_ps(x, w0, acc[r][0]);
      acc[r][1] = _mm512_fmadd_ps(x, w1, acc[r][1]);
    }
  };
  if (decoded != nullptr) {
    for (int64_t k = 0; k < 4 * c.k4; ++k) {
      add(k, _mm512_loadu_ps(decoded + k * kPanel), _mm512_loadu_ps(decoded + k * kPanel + kHalf));
    }
  } else if constexpr (R < kDecodeRows) {
    const uint8_t* w = static_cast<const uint8_t*>(p.w) + panel * c.k4 * kPanel * 4;
    for (int64_t i = 0; i < c.k4; ++i) {
      const __m512i codes0 = _mm512_loadu_si512(w + i * 128), codes1 = _mm512_loadu_si512(w + i * 128 + 64);
      add(4 * i, DecodeByte<0>(codes0), DecodeByte<0>(codes1));
      add(4 * i + 1, DecodeByte<1>(codes0), DecodeByte<1>(codes1));
      add(4 * i + 2, DecodeByte<2>(codes0), DecodeByte<2>(codes1));
      add(4 * i + 3, DecodeByte<3>(codes0), DecodeByte<3>(codes1));
    }
  }
  const __m512 scale0 = _mm512_maskz_loadu_ps(LaneMask(p.n - n0), p.w_scale + n0);
  const __m512 scale1 = _mm512_maskz_loadu_ps(LaneMask(p.n - n0 - kHalf), p.w_scale + n0 + kHalf);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    acc[r][0] = _mm512_mul_ps(acc[r][0], scale0);
    acc[r][1] = _mm512_mul_ps(acc[r][1], scale1);
  }
  FinishRows<R>(p.tail, c.tail, m, panel, p.n, acc, p.y);
}

using TilePointer = void (*)(const Call&, int64_t, int64_t, const float*);
template <int... kRows>
constexpr TilePointer TileOfRows(int rows, std::integer_sequence<int, kRows...>) {
  constexpr TilePointer kTiles[] = {Tile<kRows + 1>...};
  return kTiles[rows - 1];
}

}  // namespace

void TilesAvx512(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end,
                 float* decoded) {
  const int64_t rows = m_end - m_begin, tiles = (rows + kMaxRows - 1) / kMaxRows;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    if (decoded != nullptr) {
      const auto* w = static_cast<const uint8_t*>(c.params.w) + panel * c.k4 * kPanel * 4;
      Decode(w, c.k4, decoded);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const auto tile =
          TileOfRows(static_cast<int>(end - begin), std::make_integer_sequence<int, kMaxRows>{});
      tile(c, m_begin + begin, panel, decoded);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
