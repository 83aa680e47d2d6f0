// AVX-512 VNNI, for two targets: with and without BF16 for the tail. Everything is in an anonymous namespace,
// a copy a target. A register tile is up to 6 rows x 32 channels: 12 integer and 12 float accumulators,
// because a group's sum is scaled into a float every 16 to 256 codes. Nibbles are split in registers: six
// logic operations beside 24 vpdpbusd, on other pipes.
#pragma once

#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {
namespace {

constexpr int kMaxRows = 6;

inline __m512i Broadcast4(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm512_set1_epi32(four);
}

// sum += w (unsigned) * x (signed), four products a lane. As asm because GCC 12 copies the accumulator of the
// intrinsic to a fresh register each time, and the accumulators then spill.
inline void DotAdd(__m512i& sum, __m512i w, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

inline __m512 Scales(ScaleType type, const uint8_t* block, int64_t half) {
  if (type == ScaleType::kF32) return _mm512_loadu_ps(block + half * 64);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + half * 32));
  if (type == ScaleType::kF16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// By value and out of line: a reference would keep the accumulators in memory.
[[gnu::noinline]] void StoreGroupSum(const Params& p, int64_t m, int64_t n0, int64_t g, __m512i sum0,
                                     __m512i sum1) {
  alignas(64) int32_t lanes[kPanel];
  _mm512_store_si512(lanes, sum0);
  _mm512_store_si512(lanes + kHalf, sum1);
  for (int64_t j = 0; j < Min(kPanel, p.n - n0); ++j) {
    p.group_sums[(m * p.n + n0 + j) * (p.k / p.group) + g] = lanes[j];
  }
}

template <int R>
void Tile(const Call& c, int64_t m, int64_t panel) {
  const Params& p = c.params;
  const int64_t n0 = panel * kPanel, stride = p.k;
  const uint8_t* block = c.view.panels + panel * c.view.panel_bytes;
  const int32_t* offset = c.offset + m * c.num_groups;
  // Rows lie at base, base + stride, base + 2 * stride of every third pointer: addresses x86 forms for free.
  const int8_t* base[2] = {p.x + m * p.k, p.x + (m + Min(3, R - 1)) * p.k};
  const __m512i low_half = _mm512_set1_epi8(15);
  __m512 acc[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();

  for (int64_t g = 0; g < c.num_groups; ++g, block += c.view.group_bytes) {
    __m512i sum[R][2];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(offset[r * c.num_groups + g]);
    const auto add = [&](int64_t k, __m512i w0, __m512i w1)
        __attribute__((always_inline)) {  // four k of every row
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m512i x = Broadcast4(base[r / 3] + r % 3 * stride + k);
        DotAdd(sum[r][0], w0, x);
        DotAdd(sum[r][1], w1, x);
      }
    };
    const uint8_t* codes = block + c.view.scale_bytes;
    for (int64_t j = 0; j < p.group / 8; ++j) {
      const __m512i pair0 = _mm512_loadu_si512(codes + j * 128);
      const __m512i pair1 = _mm512_loadu_si512(codes + j * 128 + 64);
      const int64_t k = g * p.group + j * 8;
      add(k, _mm512_and_si512(pair0, low_half), _mm512_and_si512(pair1, low_half));
      add(k + 4, _mm512_and_si512(_mm512_srli_epi16(pair0, 4), low_half),
          _mm512_and_si512(_mm512_srli_epi16(pair1, 4), low_half));
    }
    if (p.group_sums != nullptr) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) StoreGroupSum(p, m + r, n0, g, sum[r][0], sum[r][1]);
    }
    const __m512 scale0 = Scales(c.view.type, block, 0), scale1 = Scales(c.view.type, block, 1);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      acc[r][0] = _mm512_add_ps(acc[r][0], _mm512_mul_ps(scale0, _mm512_cvtepi32_ps(sum[r][0])));
      acc[r][1] = _mm512_add_ps(acc[r][1], _mm512_mul_ps(scale1, _mm512_cvtepi32_ps(sum[r][1])));
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const __m512 x_scale = _mm512_set1_ps(p.x_scale[(m + r) * p.x_scale_stride]);
    acc[r][0] = _mm512_mul_ps(acc[r][0], x_scale);
    acc[r][1] = _mm512_mul_ps(acc[r][1], x_scale);
  }
  FinishRows<R>(p.tail, c.tail, m, panel, p.n, acc, p.y);
}

using TilePointer = void (*)(const Call&, int64_t, int64_t);
template <int... kRows>
constexpr TilePointer TileOfRows(int rows, std::integer_sequence<int, kRows...>) {
  constexpr TilePointer kTiles[] = {Tile<kRows + 1>...};
  return kTiles[rows - 1];
}

void Tiles(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  // Even tiles: 7 rows are 4 + 3, not 6 + 1.
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

}  // namespace
}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
