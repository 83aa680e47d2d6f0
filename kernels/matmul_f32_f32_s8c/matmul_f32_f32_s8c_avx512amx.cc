// AMX: 16 rows of x x one panel in six tiles of sums, one for each byte and half of the panel. What 64 does
// not divide of K is left to vpdpbusd, and so are fewer than 16 rows.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_bytes.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

constexpr int64_t kStepsPerTile = kTileBytes / 4;
constexpr int kGroup = 4;  // rows whose sums are in registers at once

struct alignas(64) SumBlock {
  int32_t values[kTileRows][kBytes][kPanel];
};

// sums of 16 rows with one panel, K rounded down to whole tiles.
inline void TileSums(const Call& c, int64_t m, int64_t panel, SumBlock& out) {
  const int64_t stride = 4 * c.k4;
  const int8_t* x = c.bytes + m * kBytes * stride;
  const uint8_t* w = static_cast<const uint8_t*>(c.params.w) + panel * c.k4 * kPanelStep;
  const int64_t row = kBytes * stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t i = 0; i + kStepsPerTile <= c.k4; i += kStepsPerTile) {
    const uint8_t* panel_codes = w + i * kPanelStep;
    for (int h = 0; h < 2; ++h) {
      // Both halves in one body would need a ninth tile: the rows are read twice instead, from L1.
      _tile_loadd(7, panel_codes + h * kTileBytes, kPanelStep);
      if (h == 0) {
        _tile_loadd(6, x + 4 * i, row);
        _tile_dpbsud(0, 6, 7);
        _tile_loadd(6, x + stride + 4 * i, row);
        _tile_dpbsud(1, 6, 7);
        _tile_loadd(6, x + 2 * stride + 4 * i, row);
        _tile_dpbsud(2, 6, 7);
      } else {
        _tile_loadd(6, x + 4 * i, row);
        _tile_dpbsud(3, 6, 7);
        _tile_loadd(6, x + stride + 4 * i, row);
        _tile_dpbsud(4, 6, 7);
        _tile_loadd(6, x + 2 * stride + 4 * i, row);
        _tile_dpbsud(5, 6, 7);
      }
    }
  }
  constexpr int kStride = sizeof(out.values[0]);
  _tile_stored(0, out.values[0][0], kStride);
  _tile_stored(1, out.values[0][1], kStride);
  _tile_stored(2, out.values[0][2], kStride);
  _tile_stored(3, out.values[0][0] + kHalf, kStride);
  _tile_stored(4, out.values[0][1] + kHalf, kStride);
  _tile_stored(5, out.values[0][2] + kHalf, kStride);
}

inline void FinishGroup(const Call& c, int64_t m, int64_t panel, const int32_t (*values)[kBytes][kPanel]) {
  __m512i sum[kBytes * kGroup][2];
#pragma GCC unroll 12
  for (int r = 0; r < kBytes * kGroup; ++r) {
    const __m512i offset = _mm512_set1_epi32(c.offset[m * kBytes + r]);
    const int32_t* row = values[r / kBytes][r % kBytes];
    sum[r][0] = _mm512_add_epi32(_mm512_load_si512(row), offset);
    sum[r][1] = _mm512_add_epi32(_mm512_load_si512(row + kHalf), offset);
  }
  const int64_t stride = 4 * c.k4;
  DotRows<kBytes * kGroup>(c.bytes + m * kBytes * stride, stride,
                           static_cast<const uint8_t*>(c.params.w) + panel * c.k4 * kPanelStep,
                           c.k4 / kStepsPerTile * kStepsPerTile, c.k4, sum);
  FinishBytes<kGroup>(c, m, panel, sum);
}

}  // namespace

void TilesAvx512Amx(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  if (m_end - m_begin < kTileRows) return Tiles(c, m_begin, m_end, p_begin, p_end);
  const FullTiles tiles;
  SumBlock sums;
  for (int64_t panel = p_begin; panel < p_end; ++panel) {
    for (int64_t next = m_begin; next < m_end; next += kTileRows) {
      const int64_t m = Min(next, m_end - kTileRows);  // the last block repeats some of the one before
      TileSums(c, m, panel, sums);
      for (int64_t r = 0; r < kTileRows; r += kGroup) FinishGroup(c, m + r, panel, sums.values + r);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
