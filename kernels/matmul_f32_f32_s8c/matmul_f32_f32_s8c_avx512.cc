// AVX-512. A register tile is up to 12 rows x 32 channels. Bytes become floats without shifts of their own:
// bits s..s+7 of a lane under the exponent of 2^(23-s) are 2^(23-s) + byte, so a mask-and-or and a
// subtraction on other pipes than the multiply-adds are all it takes, and no decoded copy is kept.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

constexpr int kMaxRows = 12;
// Decoding fills the reorder window with few loads, so the next ones are asked for by hand. Past the last
// panel the addresses are harmless.
constexpr int64_t kPrefetchBytes = 1024;
constexpr int kFewRows = 2;

// The codes in bits [shift, shift + 8) of every lane.
template <int shift>
inline __m512 DecodeByte(__m512i lanes) {
  const __m512i with_exponent = _mm512_ternarylogic_epi32(  // (lanes & 255 << shift) | 2^(23 - shift)
      lanes, _mm512_set1_epi32(255 << shift), _mm512_set1_epi32((127 + 23 - shift) << 23), 0xea);
  return _mm512_sub_ps(_mm512_castsi512_ps(with_exponent),
                       _mm512_set1_ps(static_cast<float>(1 << (23 - shift)) + 128.0f));
}

template <int R>
void Tile(const Call& c, int64_t m, int64_t panel) {
  const Params& p = c.params;
  const int64_t stride = c.x_stride, n0 = panel * kPanel;
  const uint8_t* w = static_cast<const uint8_t*>(p.w) + panel * (c.k4 * kPanel * 4);
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
  for (int64_t i = 0; i < c.k4; ++i) {
    const uint8_t* codes = w + i * 128;
    if (R <= kFewRows) {
      _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes + 64), _MM_HINT_T0);
    }
    const __m512i codes0 = _mm512_loadu_si512(codes), codes1 = _mm512_loadu_si512(codes + 64);
    add(4 * i, DecodeByte<0>(codes0), DecodeByte<0>(codes1));
    add(4 * i + 1, DecodeByte<8>(codes0), DecodeByte<8>(codes1));
    const __m512i high0 = _mm512_srli_epi32(codes0, 16), high1 = _mm512_srli_epi32(codes1, 16);
    add(4 * i + 2, DecodeByte<0>(high0), DecodeByte<0>(high1));
    add(4 * i + 3, DecodeByte<8>(high0), DecodeByte<8>(high1));
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

using TilePointer = void (*)(const Call&, int64_t, int64_t);
template <int... kRows>
constexpr TilePointer TileOfRows(int rows, std::integer_sequence<int, kRows...>) {
  constexpr TilePointer kTiles[] = {Tile<kRows + 1>...};
  return kTiles[rows - 1];
}

}  // namespace

void TilesAvx512(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const int64_t rows = m_end - m_begin, tiles = (rows + kMaxRows - 1) / kMaxRows;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const auto tile =
          TileOfRows(static_cast<int>(end - begin), std::make_integer_sequence<int, kMaxRows>{});
      tile(c, m_begin + begin, panel);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
