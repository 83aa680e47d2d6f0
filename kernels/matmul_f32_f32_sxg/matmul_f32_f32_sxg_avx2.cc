// AVX2 + FMA + F16C. A register tile is up to 3 rows x 16 channels: group sums and totals. Codes are decoded
// in registers.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/cpu/group_codes_avx2.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_isa.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {
namespace {

constexpr int kMaxRows = 3;
constexpr float kTwo23 = 8388608.0f;

// Bits [shift, shift + width) of every lane: 2^23 + code is the float whose mantissa ends in that code.
// `bias` is 2^23 + the code that means 0.
template <int shift, int width>
inline __m256 Decode(__m256i lanes, __m256 bias) {
  const __m256i code = _mm256_and_si256(_mm256_srli_epi32(lanes, shift), _mm256_set1_epi32((1 << width) - 1));
  const __m256i with_exponent = _mm256_or_si256(code, _mm256_set1_epi32(0x4b000000));
  return _mm256_sub_ps(_mm256_castsi256_ps(with_exponent), bias);
}

template <class F, int... i>
__attribute__((always_inline)) inline void ForEach(F&& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}

// add(k, w0, w1) for every k of a unit.
template <int bits, class Add>
__attribute__((always_inline)) inline void DecodeUnit(const uint8_t* unit, int64_t half,
                                                      const __m256 (&bias)[2], Add&& add) {
  if constexpr (bits == 8) {
    for (int q = 0; q < 4; ++q) {
      const uint8_t* at = unit + q * 128 + half * 64;
      const __m256i codes0 = Load256(at), codes1 = Load256(at + 32);
      ForEach(
          [&](auto i) __attribute__((always_inline)) {
            add(q * 4 + i, Decode<8 * i, 8>(codes0, bias[0]), Decode<8 * i, 8>(codes1, bias[1]));
          },
          std::make_integer_sequence<int, 4>{});
    }
  } else {
    ForEach(
        [&](auto step) __attribute__((always_inline)) {
          __m256i codes[2];
          LoadNibbles<bits, step>(unit, half, codes);
          ForEach(
              [&](auto i) __attribute__((always_inline)) {
                constexpr int kShift = 8 * (i % 4) + 4 * (i / 4);  // byte i % 4, low half for i < 4
                add(step * 8 + i, Decode<kShift, 4>(codes[0], bias[0]), Decode<kShift, 4>(codes[1], bias[1]));
              },
              std::make_integer_sequence<int, 8>{});
        },
        std::make_integer_sequence<int, 2>{});
  }
}

template <int bits, int R>
void Tile(const Call& c, int64_t m, int64_t n0) {
  const Params& p = c.params;
  const int64_t lane = n0 % kPanel;
  const uint8_t* const begin = c.view.panels + n0 / kPanel * c.view.panel_bytes;
  const uint8_t* block = begin;
  const float* x = c.x + m * c.x_stride;
  __m256 acc[R][2];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  __m256 bias[2];
  bias[0] = bias[1] = _mm256_set1_ps(kTwo23 + static_cast<float>(1 << (bits - 1)));
  for (int64_t g = 0; g < c.view.num_groups; ++g, block += c.view.group_bytes) {
    if (c.view.has_zeros) {
      const uint8_t* zeros = begin + c.view.zeros_at + g * kPanel + lane;
      for (int h = 0; h < 2; ++h) {
        bias[h] = _mm256_add_ps(_mm256_set1_ps(kTwo23), _mm256_cvtepi32_ps(GroupZeros(zeros + h * kLanes)));
      }
    }
    __m256 sum[R][2];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    const uint8_t* unit = block + c.view.scale_bytes;
    for (int64_t u = 0; u < c.view.units; ++u, unit += kUnitBytes<bits>, x += kUnit) {
      DecodeUnit<bits>(
          unit, lane / kColumns, bias, [&](int64_t k, __m256 w0, __m256 w1) __attribute__((always_inline)) {
#pragma GCC unroll 3
            for (int r = 0; r < R; ++r) {
              const __m256 xr = _mm256_set1_ps(x[r * c.x_stride + k]);
              sum[r][0] = _mm256_fmadd_ps(xr, w0, sum[r][0]);
              sum[r][1] = _mm256_fmadd_ps(xr, w1, sum[r][1]);
            }
          });
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = GroupScales(c.view.type, block, lane + h * kLanes);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) acc[r][h] = _mm256_fmadd_ps(scale, sum[r][h], acc[r][h]);
    }
  }
  FinishRows<R>(p.tail, c.tail, m, n0, p.n, acc, p.y);
}

using TilePointer = void (*)(const Call&, int64_t, int64_t);
TilePointer TileOf(int bits, int64_t rows) {
  static constexpr TilePointer kTiles[4][kMaxRows] = {{Tile<2, 1>, Tile<2, 2>, Tile<2, 3>},
                                                      {Tile<3, 1>, Tile<3, 2>, Tile<3, 3>},
                                                      {Tile<4, 1>, Tile<4, 2>, Tile<4, 3>},
                                                      {Tile<8, 1>, Tile<8, 2>, Tile<8, 3>}};
  return kTiles[bits == 8 ? 3 : bits - 2][rows - 1];
}

}  // namespace

void TilesAvx2(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  for (int64_t n0 = p_begin * kPanel; n0 < Min(p_end * kPanel, c.params.n); n0 += kColumns) {
    for (int64_t m = m_begin; m < m_end; m += kMaxRows) {
      TileOf(c.view.bits, Min(kMaxRows, m_end - m))(c, m, n0);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
