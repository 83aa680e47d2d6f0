// The register tile of matmul_f32_f32_f32, compiled once for each vector level (anonymous namespace: nothing
// here is shared between the objects).
//
// A tile keeps kRows x kVecs vectors of sums in registers. One step of k loads kVecs vectors of the panel and
// multiplies them by kRows broadcast elements of x: weights come from L2 at 128 bytes a step, x from L1.
// Every kSumBlock steps the registers' sums go to the tile's totals, which stay in L1. x is read where it
// lies; K is cut into blocks so that a block of a panel (96 KiB at most) and of a row tile stay in L2 while
// they are used again.
#pragma once

#include <cstdint>

#include "kernels/cpu/multiply_tile.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_isa.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {
namespace {

constexpr int64_t kMaxKBlock = 768;
constexpr int64_t kAhead = 64;  // steps of k that weights are prefetched ahead: 8 KiB

// One block of k for one tile.
struct Block {
  const float* x;  // [kRows, length], rows x_stride apart
  int64_t x_stride;
  const float* w;  // [length, kPanel], from the tile's first column
  int64_t length;
  float* y;  // [kRows, columns], rows y_stride apart
  int64_t y_stride;
  int64_t columns;    // 1 .. kVecs * kLanes are stored
  const float* bias;  // [columns] or null
  bool is_first, is_last;
};

// to = from (null: nothing) + sum (+ bias); rows from_stride and to_stride apart.
template <int kRows, int kVecs>
SF_INLINE void AddSums(const F32 (&sum)[kRows][kVecs], const float* from, int64_t from_stride, float* to,
                       int64_t to_stride, int64_t columns, const float* bias) {
#pragma GCC unroll 4
  for (int v = 0; v < kVecs; ++v) {
    const int64_t count = columns - v * kLanes;
    if (count <= 0) return;
    const F32 added = bias != nullptr ? LoadN(bias + v * kLanes, count) : Zero();
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      F32 value = sum[r][v];
      if (from != nullptr) value = LoadN(from + r * from_stride + v * kLanes, count) + value;
      if (bias != nullptr) value = value + added;
      StoreN(to + r * to_stride + v * kLanes, value, count);
    }
  }
}

template <int kRows, int kVecs>
void RunTile(const Block& b) {
  constexpr int64_t kStride = kVecs * kLanes;
  alignas(64) float totals[kRows * kStride];
  for (int64_t k = 0; k < b.length; k += kSumBlock) {
    F32 sum[kRows][kVecs];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; ++v) sum[r][v] = Zero();
    }
    const float* const w = b.w + k * kPanel;
    MultiplyTile<kRows, kVecs>(sum, b.x + k, b.x_stride, w, kPanel, MinOf(kSumBlock, b.length - k),
                               w + kAhead * kPanel, kPanel);
    const bool first = k == 0, last = k + kSumBlock >= b.length;
    const float* const from = !first ? totals : b.is_first ? nullptr : b.y;
    if (last) {
      AddSums<kRows, kVecs>(sum, from, first ? b.y_stride : kStride, b.y, b.y_stride, b.columns,
                            b.is_last ? b.bias : nullptr);
    } else if (from == totals) {
      AddSums<kRows, kVecs>(sum, totals, kStride, totals, kStride, kStride, nullptr);
    } else {
      AddSums<kRows, kVecs>(sum, from, b.y_stride, totals, kStride, b.columns, nullptr);
    }
  }
}

using TileRunner = void (*)(const Block&);

// kRunners[rows - 1] runs a tile of so many rows.
template <int kVecs, int... kIndex>
struct Runners {
  static constexpr TileRunner kRunners[] = {RunTile<kIndex + 1, kVecs>...};
};

// Rows [m_begin, m_end) x columns [n_begin, n_begin + columns) of a panel, one block of k. Tiles are of
// nearly equal height: 13 rows as 7 + 6 keep more sums in flight than 12 + 1.
template <int kMaxRows>
SF_INLINE void RunRows(const Params& p, const TileRunner* runners, Block b, int64_t k0, int64_t n_begin,
                       int64_t m_begin, int64_t m_end) {
  const int64_t rows = m_end - m_begin, num_tiles = (rows + kMaxRows - 1) / kMaxRows;
  const int64_t height = rows / num_tiles, num_higher = rows % num_tiles;
  int64_t m = m_begin;
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t tile_rows = height + (tile < num_higher ? 1 : 0);
    b.x = p.x + m * p.x_stride + k0;
    b.y = p.y + m * p.y_stride + n_begin;
    runners[tile_rows - 1](b);
    m += tile_rows;
  }
}

// kTileVecs: vectors of columns in a tile. Fewer than a panel's: the panel is computed in parts.
template <int kMaxRows, int kTileVecs>
void RunPanels(const Params& p, const TileRunner* runners, int64_t m_begin, int64_t m_end, int64_t p_begin,
               int64_t p_end) {
  constexpr int64_t kColumns = kTileVecs * kLanes;
  const int64_t num_blocks = (p.k + kMaxKBlock - 1) / kMaxKBlock, sums = (p.k + kSumBlock - 1) / kSumBlock;
  const int64_t length = (sums + num_blocks - 1) / num_blocks * kSumBlock;
  for (int64_t k0 = 0; k0 < p.k; k0 += length) {
    for (int64_t panel = p_begin; panel < p_end; ++panel) {
      for (int64_t part = 0; part < kPanel / kColumns; ++part) {
        const int64_t n_begin = panel * kPanel + part * kColumns;
        if (n_begin >= p.n) break;
        Block b;
        b.x_stride = p.x_stride;
        b.w = p.w + (panel * p.k + k0) * kPanel + part * kColumns;
        b.length = MinOf(length, p.k - k0);
        b.y_stride = p.y_stride;
        b.columns = MinOf(kColumns, p.n - n_begin);
        b.bias = p.bias != nullptr ? p.bias + n_begin : nullptr;
        b.is_first = k0 == 0;
        b.is_last = k0 + length >= p.k;
        RunRows<kMaxRows>(p, runners, b, k0, n_begin, m_begin, m_end);
      }
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels::matmul_f32_f32_f32
