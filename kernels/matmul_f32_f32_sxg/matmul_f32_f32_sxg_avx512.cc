// AVX-512. A register tile holds 12 group sums and as many totals: up to 6 rows x 32 channels, or 2 rows x 64
// channels, so that few rows still have enough chains of additions in flight. Codes become floats without
// shifts: bits s..s+3 of a lane under the exponent of 2^(23-s) are 2^(23-s) + code, so a mask-and-or and a
// subtraction on other pipes than the multiply-adds are all it takes, and no decoded copy is kept. What is
// subtracted is 2^(23-s) + the code that means 0: a zero point is part of it.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/group_codes_avx512.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_isa.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {
namespace {

constexpr int kMaxRows = 6;
// Decoding fills the reorder window with few loads, so the next ones are asked for by hand. Past the last
// panel the addresses are harmless.
constexpr int64_t kPrefetchBytes = 1024;
constexpr int kWideRows = 2;  // up to so many rows take two panels at a time

// Codes lie at bit 8 * (i % 2) + 4 * (i / 4) of a lane or of its upper half: four positions, four biases.
constexpr int kShifts = 4;
using Biases = __m512[kShifts];
constexpr float Two23(int position) { return static_cast<float>(1 << (23 - 4 * position)); }

// Bits [shift, shift + kWidth) of every lane. Without zero points the biases are constants.
template <int bits, bool kZeros, int shift>
inline __m512 Decode(__m512i lanes, const Biases& bias) {
  constexpr int kWidth = bits == 8 ? 8 : 4;
  const __m512i with_exponent = _mm512_ternarylogic_epi32(  // (lanes & mask << shift) | 2^(23 - shift)
      lanes, _mm512_set1_epi32(((1 << kWidth) - 1) << shift), _mm512_set1_epi32((127 + 23 - shift) << 23),
      0xea);
  const __m512 value = _mm512_castsi512_ps(with_exponent);
  if constexpr (kZeros) return _mm512_sub_ps(value, bias[shift / 4]);
  return _mm512_sub_ps(value, _mm512_set1_ps(Two23(shift / 4) + static_cast<float>(1 << (bits - 1))));
}

// add(i, w0, w1) for every k of a block (kBlock<bits> of them) of one panel.
template <int bits, bool kZeros, class Add>
__attribute__((always_inline)) inline void DecodeBlock(const uint8_t* block, const Biases (&bias)[2],
                                                       Add&& add) {
  constexpr int kCodes = bits == 8 ? 4 : 8;  // of a lane
  ForEach(
      [&](auto step) __attribute__((always_inline)) {
        __m512i codes0, codes1;
        if constexpr (bits == 8) {
          LoadQuad<8, step>(block, codes0, codes1);
        } else {
          LoadNibbles<bits, step>(block, codes0, codes1);
        }
        const __m512i high0 = _mm512_srli_epi32(codes0, 16), high1 = _mm512_srli_epi32(codes1, 16);
        ForEach(
            [&](auto i) __attribute__((always_inline)) {  // byte i % 4, of nibbles the low half for i < 4
              constexpr int kShift = 8 * (i % 2) + 4 * (i / 4);
              add(step * kCodes + i, Decode<bits, kZeros, kShift>(i % 4 < 2 ? codes0 : high0, bias[0]),
                  Decode<bits, kZeros, kShift>(i % 4 < 2 ? codes1 : high1, bias[1]));
            },
            std::make_integer_sequence<int, kCodes>{});
      },
      std::make_integer_sequence<int, kBlock<bits> / kCodes>{});
}

inline void SetBiases(const uint8_t* zeros, Biases (&bias)[2]) {
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros) + h);
    const __m512 zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
#pragma GCC unroll 4
    for (int s = 0; s < kShifts; ++s) bias[h][s] = _mm512_add_ps(zero, _mm512_set1_ps(Two23(s)));
  }
}

// R rows x P panels.
template <int bits, bool kZeros, int R, int P>
void Tile(const Call& c, int64_t m, int64_t panel) {
  const Params& p = c.params;
  const uint8_t *block[P], *zeros[P];
  Biases bias[P][2];
  for (int q = 0; q < P; ++q) {
    block[q] = c.view.panels + (panel + q) * c.view.panel_bytes;
    zeros[q] = block[q] + c.view.zeros_at;
  }
  // Rows lie at base, base + stride, base + 2 * stride of two pointers: addresses x86 forms for free.
  const int64_t stride = c.x_stride;
  const float* base[2] = {c.x + m * stride, c.x + (m + Min(3, R - 1)) * stride};
  __m512 acc[P][R][2];
#pragma GCC unroll 12
  for (int i = 0; i < P * R; ++i) acc[i / R][i % R][0] = acc[i / R][i % R][1] = _mm512_setzero_ps();

  int64_t k = 0;
  for (int64_t g = 0; g < c.view.num_groups; ++g) {
    if constexpr (kZeros) {
      for (int q = 0; q < P; ++q) SetBiases(zeros[q] + g * kPanel, bias[q]);
    }
    __m512 sum[P][R][2];
#pragma GCC unroll 12
    for (int i = 0; i < P * R; ++i) sum[i / R][i % R][0] = sum[i / R][i % R][1] = _mm512_setzero_ps();
    for (int64_t j = 0; j < c.view.units * (kUnit / kBlock<bits>); ++j) {
#pragma GCC unroll 2
      for (int q = 0; q < P; ++q) {
        const uint8_t* codes = block[q] + c.view.scale_bytes + j * kBlockBytes<bits>;
        if (R <= kWideRows) {
#pragma GCC unroll 8
          for (int64_t line = 0; line < kBlockBytes<bits>; line += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes + line), _MM_HINT_T0);
          }
        }
        DecodeBlock<bits, kZeros>(
            codes, bias[q], [&](int64_t i, __m512 w0, __m512 w1) __attribute__((always_inline)) {
#pragma GCC unroll 6
              for (int r = 0; r < R; ++r) {
                const __m512 x = _mm512_set1_ps(base[r / 3][r % 3 * stride + k + i]);
                sum[q][r][0] = _mm512_fmadd_ps(x, w0, sum[q][r][0]);
                sum[q][r][1] = _mm512_fmadd_ps(x, w1, sum[q][r][1]);
              }
            });
      }
      k += kBlock<bits>;
    }
#pragma GCC unroll 2
    for (int q = 0; q < P; ++q) {
      const __m512 scale0 = GroupScales(c.view.type, block[q], 0);
      const __m512 scale1 = GroupScales(c.view.type, block[q], 1);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        acc[q][r][0] = _mm512_fmadd_ps(scale0, sum[q][r][0], acc[q][r][0]);
        acc[q][r][1] = _mm512_fmadd_ps(scale1, sum[q][r][1], acc[q][r][1]);
      }
      block[q] += c.view.group_bytes;
    }
  }
#pragma GCC unroll 2
  for (int q = 0; q < P; ++q) FinishRows<R>(p.tail, c.tail, m, panel + q, p.n, acc[q], p.y);
}

using TilePointer = void (*)(const Call&, int64_t, int64_t);
template <int bits, bool kZeros, int... kRows>
TilePointer TileOfRows(int rows, bool wide, std::integer_sequence<int, kRows...>) {
  static constexpr TilePointer kTiles[] = {Tile<bits, kZeros, kRows + 1, 1>...};
  static constexpr TilePointer kWide[kWideRows] = {Tile<bits, kZeros, 1, 2>, Tile<bits, kZeros, 2, 2>};
  return wide ? kWide[rows - 1] : kTiles[rows - 1];
}
template <bool kZeros>
TilePointer TileOfBits(int bits, int rows, bool wide) {
  constexpr std::make_integer_sequence<int, kMaxRows> kRows;
  if (bits == 2) return TileOfRows<2, kZeros>(rows, wide, kRows);
  if (bits == 3) return TileOfRows<3, kZeros>(rows, wide, kRows);
  return bits == 4 ? TileOfRows<4, kZeros>(rows, wide, kRows) : TileOfRows<8, kZeros>(rows, wide, kRows);
}
TilePointer TileOf(const GroupView& view, int64_t rows, bool wide) {
  return view.has_zeros ? TileOfBits<true>(view.bits, static_cast<int>(rows), wide)
                        : TileOfBits<false>(view.bits, static_cast<int>(rows), wide);
}

}  // namespace

void TilesAvx512(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const int64_t rows = m_end - m_begin, tiles = (rows + kMaxRows - 1) / kMaxRows;
  int64_t panel = p_begin;
  for (; rows <= kWideRows && panel + 1 < p_end; panel += 2) {
    TileOf(c.view, rows, true)(c, m_begin, panel);
  }
  for (; panel < p_end; ++panel) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      TileOf(c.view, end - begin, false)(c, m_begin + begin, panel);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
