// AMX: 32 rows x one panel in four tiles of sums, 64 codes of K a step from two tiles of x and two of W,
// whose packing is that of VNNI and of AMX alike. What 64 does not divide of K is left to vpdpbusd, and so
// are fewer than 16 rows.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_avx512.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

constexpr int64_t kStepsPerTile = kTileBytes / 4;
constexpr int kGroup = 8;  // rows whose sums are in registers at once

struct alignas(64) SumBlock {
  int32_t values[2 * kTileRows][kPanel];
};

// sums of rows [m, m + 16 * kHalves) with one panel, K rounded down to whole tiles.
template <int kHalves>
void TileSums(const Call& c, int64_t m, int64_t panel, SumBlock& out) {
  const int8_t* x = c.x + m * c.x_stride;
  const uint8_t* w = c.w + (panel - c.first_panel) * c.k4 * kPanelStep;
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kHalves > 1) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t i = 0; i + kStepsPerTile <= c.k4; i += kStepsPerTile) {
    _tile_loadd(6, w + i * kPanelStep, kPanelStep);
    _tile_loadd(4, x + 4 * i, c.x_stride);
    _tile_loadd(7, w + i * kPanelStep + kTileBytes, kPanelStep);
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    if constexpr (kHalves > 1) {
      _tile_loadd(5, x + kTileRows * c.x_stride + 4 * i, c.x_stride);
      _tile_dpbsud(2, 5, 6);
      _tile_dpbsud(3, 5, 7);
    }
  }
  constexpr int kStride = sizeof(out.values[0]);
  _tile_stored(0, out.values[0], kStride);
  _tile_stored(1, &out.values[0][kHalf], kStride);
  if constexpr (kHalves > 1) {
    _tile_stored(2, out.values[kTileRows], kStride);
    _tile_stored(3, &out.values[kTileRows][kHalf], kStride);
  }
}

void FinishGroup(const Call& c, int64_t m, int64_t panel, const int32_t (*values)[kPanel]) {
  __m512i sum[kGroup][2];
  const uint8_t* w = c.w + (panel - c.first_panel) * c.k4 * kPanelStep;
#pragma GCC unroll 8
  for (int r = 0; r < kGroup; ++r) {
    const __m512i offset = _mm512_set1_epi32(c.offset[m + r]);
    sum[r][0] = _mm512_add_epi32(_mm512_load_si512(values[r]), offset);
    sum[r][1] = _mm512_add_epi32(_mm512_load_si512(values[r] + kHalf), offset);
  }
  DotRows<kGroup>(c.x + m * c.x_stride, c.x_stride, w, c.k4 / kStepsPerTile * kStepsPerTile, c.k4, sum);
  FinishSums<kGroup>(c, m, panel, sum);
}

template <int kHalves>
void Block(const Call& c, int64_t m, int64_t panel) {
  SumBlock sums;
  TileSums<kHalves>(c, m, panel, sums);
  for (int64_t r = 0; r < kHalves * kTileRows; r += kGroup) FinishGroup(c, m + r, panel, sums.values + r);
}

}  // namespace

void TilesAvx512Amx(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  const int64_t rows = m_end - m_begin;
  if (rows < kTileRows) return Tiles(c, m_begin, m_end, p_begin, p_end);
  const FullTiles tiles;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    // The last block ends with the rows and repeats some of the block before: the same sums once more.
    int64_t m = m_begin;
    if (rows >= 2 * kTileRows) {
      for (; m_end - m > kTileRows; m += 2 * kTileRows) Block<2>(c, Min(m, m_end - 2 * kTileRows), panel);
    }
    for (; m < m_end; m += kTileRows) Block<1>(c, Min(m, m_end - kTileRows), panel);
  }
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
