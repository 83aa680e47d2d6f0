// AVX-512. A register tile holds 12 group sums and as many totals: up to 6 rows x 32 channels, or 2 rows x 64
// channels, so that few rows still have enough chains of additions in flight. Nibbles become floats without
// shifts: bits s..s+3 of a lane under the exponent of 2^(23-s) are 2^(23-s) + code, so a mask-and-or and a
// subtraction on other pipes than the multiply-adds are all it takes, and no decoded copy is kept.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

using matmul_f32_s8r_s4g::ScaleType;

constexpr int kMaxRows = 6;
// Decoding fills the reorder window with few loads, so the next ones are asked for by hand. Past the last
// panel the addresses are harmless.
constexpr int64_t kPrefetchBytes = 1024;
constexpr int kWideRows = 2;  // up to so many rows take two panels at a time

inline __m512 Scales(ScaleType type, const uint8_t* block, int64_t half) {
  if (type == ScaleType::kF32) return _mm512_loadu_ps(block + half * 64);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + half * 32));
  if (type == ScaleType::kF16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// The codes in bits [shift, shift + 4) of every lane.
template <int shift>
inline __m512 DecodeNibble(__m512i lanes) {
  const __m512i with_exponent = _mm512_ternarylogic_epi32(  // (lanes & 15 << shift) | 2^(23 - shift)
      lanes, _mm512_set1_epi32(15 << shift), _mm512_set1_epi32((127 + 23 - shift) << 23), 0xea);
  return _mm512_sub_ps(_mm512_castsi512_ps(with_exponent),
                       _mm512_set1_ps(static_cast<float>(1 << (23 - shift)) + 8.0f));
}

// The code of k = 8 * j + i of every lane: byte i % 4, low half for i < 4. `high` is lanes >> 16.
template <int i>
inline __m512 DecodeCode(__m512i lanes, __m512i high) {
  return DecodeNibble<8 * (i % 2) + 4 * (i / 4)>(i % 4 < 2 ? lanes : high);
}

template <class F, int... i>
__attribute__((always_inline)) inline void ForEachNibble(F&& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}

// R rows x P panels.
template <int R, int P>
void Tile(const Call& c, int64_t m, int64_t panel) {
  const Params& p = c.params;
  const uint8_t* block[P];
  for (int q = 0; q < P; ++q) block[q] = c.view.panels + (panel + q) * c.view.panel_bytes;
  // Rows lie at base, base + stride, base + 2 * stride of two pointers: addresses x86 forms for free.
  const float* base[2] = {p.x + m * p.k, p.x + (m + Min(3, R - 1)) * p.k};
  __m512 acc[P][R][2];
#pragma GCC unroll 12
  for (int i = 0; i < P * R; ++i) acc[i / R][i % R][0] = acc[i / R][i % R][1] = _mm512_setzero_ps();

  for (int64_t g = 0; g < c.num_groups; ++g) {
    __m512 sum[P][R][2];
#pragma GCC unroll 12
    for (int i = 0; i < P * R; ++i) sum[i / R][i % R][0] = sum[i / R][i % R][1] = _mm512_setzero_ps();
    const auto add = [&](int64_t k, int q, __m512 w0, __m512 w1) __attribute__((always_inline)) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m512 x = _mm512_set1_ps(base[r / 3][r % 3 * p.k + k]);
        sum[q][r][0] = _mm512_fmadd_ps(x, w0, sum[q][r][0]);
        sum[q][r][1] = _mm512_fmadd_ps(x, w1, sum[q][r][1]);
      }
    };
    for (int64_t j = 0; j < p.group / 8; ++j) {
#pragma GCC unroll 2
      for (int q = 0; q < P; ++q) {
        const uint8_t* codes = block[q] + c.view.scale_bytes + j * 128;
        if (R <= kWideRows) {
          _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes), _MM_HINT_T0);
          _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetchBytes + 64), _MM_HINT_T0);
        }
        const __m512i codes0 = _mm512_loadu_si512(codes), codes1 = _mm512_loadu_si512(codes + 64);
        const __m512i high0 = _mm512_srli_epi32(codes0, 16), high1 = _mm512_srli_epi32(codes1, 16);
        ForEachNibble(
            [&](auto i) __attribute__((always_inline)) {
              add(g * p.group + j * 8 + i, q, DecodeCode<i>(codes0, high0), DecodeCode<i>(codes1, high1));
            },
            std::make_integer_sequence<int, 8>{});
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < P; ++q) {
      const __m512 scale0 = Scales(c.view.type, block[q], 0), scale1 = Scales(c.view.type, block[q], 1);
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
template <int... kRows>
constexpr TilePointer TileOfRows(int rows, std::integer_sequence<int, kRows...>) {
  constexpr TilePointer kTiles[] = {Tile<kRows + 1, 1>...};
  return kTiles[rows - 1];
}

}  // namespace

void TilesAvx512(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const int64_t rows = m_end - m_begin, tiles = (rows + kMaxRows - 1) / kMaxRows;
  constexpr TilePointer kWide[kWideRows] = {Tile<1, 2>, Tile<2, 2>};
  int64_t panel = p_begin;
  for (; rows <= kWideRows && panel + 1 < p_end; panel += 2) kWide[rows - 1](c, m_begin, panel);
  for (; panel < p_end; ++panel) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const auto tile =
          TileOfRows(static_cast<int>(end - begin), std::make_integer_sequence<int, kMaxRows>{});
      tile(c, m_begin + begin, panel);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
