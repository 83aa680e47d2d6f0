// AVX-512 VNNI, for two targets: with and without BF16 for the tail. Everything is in an anonymous namespace,
// a copy a target. A register tile is up to 6 rows x 32 channels: 12 integer and 12 float accumulators,
// because a group's sum is scaled into a float every 16 to 256 codes; or 12 more integer ones, to which it is
// added factor times. Codes are split in registers: up to seven logic operations for each four codes of a
// panel beside 12 vpdpbusd, on other pipes.
#pragma once

#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/group_codes_avx512.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {
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

// What a group's sums of unsigned codes start from.
template <int R>
inline void StartSums(const Call& c, const uint8_t* panel, int64_t g, const int32_t* offset,
                      __m512i (&sum)[R][2]) {
  const int64_t num_groups = c.view.num_groups;
  if (!c.view.has_zeros) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(offset[r * num_groups]);
    return;
  }
  const auto* zeros = reinterpret_cast<const __m128i*>(panel + c.view.zeros_at + g * kPanel);
  const __m512i zero0 = _mm512_cvtepu8_epi32(_mm_loadu_si128(zeros));
  const __m512i zero1 = _mm512_cvtepu8_epi32(_mm_loadu_si128(zeros + 1));
  if (c.params.group <= kMaxShortGroup) {  // both factors fit in 16 bits: a third of the multiply's cost
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m512i x = _mm512_set1_epi32(offset[r * num_groups]);
      sum[r][0] = _mm512_madd_epi16(zero0, x);
      sum[r][1] = _mm512_madd_epi16(zero1, x);
    }
    return;
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const __m512i x = _mm512_set1_epi32(offset[r * num_groups]);
    sum[r][0] = _mm512_mullo_epi32(zero0, x);
    sum[r][1] = _mm512_mullo_epi32(zero1, x);
  }
}

template <int R>
inline void ScaleRows(const Call& c, int64_t m, int64_t n0, __m512 (&acc)[R][2]) {
  const Params& p = c.params;
  if (p.x_zero != nullptr) {
    const __m512 sum0 = _mm512_maskz_loadu_ps(LaneMask(p.n - n0), p.w_row_sum + n0);
    const __m512 sum1 = _mm512_maskz_loadu_ps(LaneMask(p.n - n0 - kHalf), p.w_row_sum + n0 + kHalf);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m512 zero = _mm512_set1_ps(static_cast<float>(p.x_zero[m + r]));
      acc[r][0] = _mm512_sub_ps(acc[r][0], _mm512_mul_ps(zero, sum0));
      acc[r][1] = _mm512_sub_ps(acc[r][1], _mm512_mul_ps(zero, sum1));
    }
  }
  if (c.groups_per_x_scale > 0) return;
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const __m512 x_scale = _mm512_set1_ps(p.x_scale[(m + r) * c.x_scale_row]);
    acc[r][0] = _mm512_mul_ps(acc[r][0], x_scale);
    acc[r][1] = _mm512_mul_ps(acc[r][1], x_scale);
  }
}

// Adds the products of a group's unsigned codes; `base` and k: where the rows lie.
template <int bits, int R>
inline __attribute__((always_inline)) void AddGroup(const Call& c, const uint8_t* codes,
                                                    const int8_t* const (&base)[2], int64_t k,
                                                    __m512i (&sum)[R][2]) {
  const int64_t stride = c.x_stride;
  for (int64_t j = 0; j < c.view.units * (kUnit / kBlock<bits>); ++j, codes += kBlockBytes<bits>) {
    ForEach(
        [&](auto quad) __attribute__((always_inline)) {  // four k of every row
          __m512i w0, w1;
          LoadQuad<bits, quad>(codes, w0, w1);
#pragma GCC unroll 6
          for (int r = 0; r < R; ++r) {
            const __m512i x = Broadcast4(base[r / 3] + r % 3 * stride + k + quad * 4);
            DotAdd(sum[r][0], w0, x);
            DotAdd(sum[r][1], w1, x);
          }
        },
        std::make_integer_sequence<int, kBlock<bits> / 4>{});
    k += kBlock<bits>;
  }
}

template <int bits, int R>
void Tile(const Call& c, int64_t m, int64_t panel) {
  const Params& p = c.params;
  const int64_t n0 = panel * kPanel, stride = c.x_stride, width = c.view.units * kUnit;
  const uint8_t* const begin = c.view.panels + panel * c.view.panel_bytes;
  const uint8_t* block = begin;
  const int32_t* offset = c.offset + m * c.view.num_groups;
  // Rows lie at base, base + stride, base + 2 * stride of every third pointer: addresses x86 forms for free.
  const int8_t* const base[2] = {c.x + m * stride, c.x + (m + Min(3, R - 1)) * stride};
  __m512 acc[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();

  for (int64_t g = 0; g < c.view.num_groups; ++g, block += c.view.group_bytes) {
    __m512i sum[R][2];
    StartSums<R>(c, begin, g, offset + g, sum);
    AddGroup<bits, R>(c, block + c.view.scale_bytes, base, g * width, sum);
    if (p.group_sums != nullptr) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) StoreGroupSum(p, m + r, n0, g, sum[r][0], sum[r][1]);
    }
    const __m512 scale0 = GroupScales(c.view.type, block, 0), scale1 = GroupScales(c.view.type, block, 1);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      __m512 value0 = _mm512_cvtepi32_ps(sum[r][0]), value1 = _mm512_cvtepi32_ps(sum[r][1]);
      if (c.groups_per_x_scale > 0) {
        const __m512 x_scale = _mm512_set1_ps(p.x_scale[(m + r) * c.x_scale_row + g / c.groups_per_x_scale]);
        value0 = _mm512_mul_ps(value0, x_scale);
        value1 = _mm512_mul_ps(value1, x_scale);
      }
      acc[r][0] = _mm512_add_ps(acc[r][0], _mm512_mul_ps(scale0, value0));
      acc[r][1] = _mm512_add_ps(acc[r][1], _mm512_mul_ps(scale1, value1));
    }
  }
  ScaleRows<R>(c, m, n0, acc);
  FinishRows<R>(p.tail, c.tail, m, panel, p.n, acc, p.y);
}

// Scales of a panel's channels; 1 behind the last one.
struct ChannelScales {
  __m512 half[2];
  ChannelScales(const Params& p, int64_t n0) {
    const __m512 one = _mm512_set1_ps(1);
    half[0] = _mm512_mask_loadu_ps(one, LaneMask(p.n - n0), p.w_scale + n0);
    half[1] = _mm512_mask_loadu_ps(one, LaneMask(p.n - n0 - kHalf), p.w_scale + n0 + kHalf);
  }
  ChannelScales Inverse() const {
    ChannelScales inverse = *this;
    for (__m512& h : inverse.half) h = _mm512_div_ps(_mm512_set1_ps(1), h);
    return inverse;
  }
};
// Of one half: whole numbers up to 16, so the nearest one is right.
inline __m512i Factors(ScaleType type, const uint8_t* block, int64_t half, const ChannelScales& inverse) {
  return _mm512_cvtps_epi32(_mm512_mul_ps(GroupScales(type, block, half), inverse.half[half]));
}

// With params.w_scale: sums of all groups are one integer.
template <int bits, int R>
void WholeTile(const Call& c, int64_t m, int64_t panel) {
  const Params& p = c.params;
  const int64_t n0 = panel * kPanel, stride = c.x_stride, width = c.view.units * kUnit;
  const uint8_t* const begin = c.view.panels + panel * c.view.panel_bytes;
  const uint8_t* block = begin;
  const int32_t* offset = c.offset + m * c.view.num_groups;
  const int8_t* const base[2] = {c.x + m * stride, c.x + (m + Min(3, R - 1)) * stride};
  const ChannelScales scales(p, n0), inverse = scales.Inverse();
  __m512i total[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) total[r][0] = total[r][1] = _mm512_setzero_si512();

  for (int64_t g = 0; g < c.view.num_groups; ++g, block += c.view.group_bytes) {
    __m512i sum[R][2];
    StartSums<R>(c, begin, g, offset + g, sum);
    AddGroup<bits, R>(c, block + c.view.scale_bytes, base, g * width, sum);
    if (p.group_sums != nullptr) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) StoreGroupSum(p, m + r, n0, g, sum[r][0], sum[r][1]);
    }
    const __m512i factor0 = Factors(c.view.type, block, 0, inverse);
    const __m512i factor1 = Factors(c.view.type, block, 1, inverse);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      total[r][0] = _mm512_add_epi32(total[r][0], _mm512_mullo_epi32(factor0, sum[r][0]));
      total[r][1] = _mm512_add_epi32(total[r][1], _mm512_mullo_epi32(factor1, sum[r][1]));
    }
  }
  __m512 acc[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
    const __m512 x_scale = _mm512_set1_ps(p.x_scale[(m + r) * c.x_scale_row]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      acc[r][h] = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(total[r][h]), x_scale), scales.half[h]);
    }
  }
  FinishRows<R>(p.tail, c.tail, m, panel, p.n, acc, p.y);
}

using TilePointer = void (*)(const Call&, int64_t, int64_t);
template <int bits, int... kRows>
TilePointer TileOfRows(bool whole, int rows, std::integer_sequence<int, kRows...>) {
  static constexpr TilePointer kTiles[] = {Tile<bits, kRows + 1>...};
  static constexpr TilePointer kWholeTiles[] = {WholeTile<bits, kRows + 1>...};
  return whole ? kWholeTiles[rows - 1] : kTiles[rows - 1];
}
TilePointer TileOf(const Call& c, int rows) {
  constexpr std::make_integer_sequence<int, kMaxRows> kRows;
  const bool whole = c.params.w_scale != nullptr;
  if (c.view.bits == 2) return TileOfRows<2>(whole, rows, kRows);
  if (c.view.bits == 3) return TileOfRows<3>(whole, rows, kRows);
  return c.view.bits == 4 ? TileOfRows<4>(whole, rows, kRows) : TileOfRows<8>(whole, rows, kRows);
}

void Tiles(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  // Even tiles: 7 rows are 4 + 3, not 6 + 1.
  const int64_t rows = m_end - m_begin, tiles = (rows + kMaxRows - 1) / kMaxRows;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
      const TilePointer tile = TileOf(c, static_cast<int>(end - begin));
      tile(c, m_begin + begin, panel);
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
