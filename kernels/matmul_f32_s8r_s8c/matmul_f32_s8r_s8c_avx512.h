// AVX-512 VNNI, for three targets: with and without BF16 for the tail, and beside AMX. Everything is in an
// anonymous namespace, a copy a target. A register tile is up to 12 rows x 32 channels: 24 accumulators hide
// vpdpbusd's latency and leave registers for two weights and a broadcast; two weight loads and 12 broadcasts
// feed 24 vpdpbusd. With fewer rows the two accumulators of a row are still above what memory delivers.
#pragma once

#include <immintrin.h>

#include <utility>

#include "kernels/cpu/dot_avx512.h"
#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

constexpr int kMaxRows = 12;

// From the integer sums of R rows and one panel to outputs.
template <int R>
void FinishSums(const Call& c, int64_t m, int64_t panel, __m512i (&sum)[R][2]) {
  const Params& p = c.params;
  const int64_t n0 = panel * kPanel;
  const __mmask16 mask0 = LaneMask(p.n - n0), mask1 = LaneMask(p.n - n0 - kHalf);
  if (p.x_zero != nullptr) {
    const __m512i code_sum0 = _mm512_maskz_loadu_epi32(mask0, p.w_code_sum + n0);
    const __m512i code_sum1 = _mm512_maskz_loadu_epi32(mask1, p.w_code_sum + n0 + kHalf);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512i zero = _mm512_set1_epi32(p.x_zero[m + r]);
      sum[r][0] = _mm512_sub_epi32(sum[r][0], _mm512_mullo_epi32(zero, code_sum0));
      sum[r][1] = _mm512_sub_epi32(sum[r][1], _mm512_mullo_epi32(zero, code_sum1));
    }
  }
  if (p.sums != nullptr) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      int32_t* row = p.sums + (m + r) * p.n + n0;
      _mm512_mask_storeu_epi32(row, mask0, sum[r][0]);
      _mm512_mask_storeu_epi32(row + kHalf, mask1, sum[r][1]);
    }
  }
  const __m512 scale0 = _mm512_maskz_loadu_ps(mask0, p.w_scale + n0);
  const __m512 scale1 = _mm512_maskz_loadu_ps(mask1, p.w_scale + n0 + kHalf);
  __m512 acc[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    const __m512 x_scale = _mm512_set1_ps(p.x_scale[(m + r) * p.x_scale_stride]);
    acc[r][0] = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][0]), x_scale), scale0);
    acc[r][1] = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum[r][1]), x_scale), scale1);
  }
  FinishRows<R>(p.tail, c.tail, m, panel, p.n, acc, p.y);
}

template <int R>
void Tile(const Call& c, int64_t m, int64_t panel) {
  __m512i sum[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm512_set1_epi32(c.offset[m + r]);

  const uint8_t* w = c.w + (panel - c.first_panel) * c.k4 * kPanelStep;
  DotRows<R>(c.x + m * c.x_stride, c.x_stride, w, 0, c.k4, sum);
  FinishSums<R>(c, m, panel, sum);
}

using TilePointer = void (*)(const Call&, int64_t, int64_t);
template <int... kRows>
constexpr TilePointer TileOfRows(int rows, std::integer_sequence<int, kRows...>) {
  constexpr TilePointer kTiles[] = {Tile<kRows + 1>...};
  return kTiles[rows - 1];
}

void Tiles(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  // Even tiles: 13 rows are 7 + 6, not 12 + 1.
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
}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
