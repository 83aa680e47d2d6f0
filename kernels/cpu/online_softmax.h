// Parts of attention kernels, for files that may include vec.h: products of register tiles, the online
// softmax of a tile of rows, and states of rows that can be merged.
#pragma once

#include <cstdint>

#include "kernels/attention_tasks.h"
#include "kernels/cpu/multiply_tile.h"
#include "kernels/cpu/vec_math.h"

namespace spikefold::kernels {
namespace {

constexpr int kTileRows = kLanes == 16 ? 12 : 6;
constexpr int kTileVecs = 2;
constexpr int64_t kTileColumns = kTileVecs * kLanes;
constexpr float kNoMax = -1e30f;  // below any score; finite, so that differences of maxima are

// Of `rows` rows. What the rows saw so far: the largest score, the sum of e^(score - max), and the values'
// sum with these weights.
struct SoftmaxState {
  float* max;  // [rows]
  float* sum;  // [rows]
  float* o;    // [rows, dim]
};
SF_INLINE SoftmaxState StateAt(float* at, int64_t rows) { return {at, at + rows, at + 2 * rows}; }

void ClearState(const SoftmaxState& state, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r) {
    state.max[r] = kNoMax;
    state.sum[r] = 0;
  }
  for (int64_t i = 0; i < rows * dim; i += kLanes) Store(state.o + i, Zero());
}

// total += state. With both maxima at kNoMax nothing changes.
void MergeState(const SoftmaxState& total, const SoftmaxState& state, int64_t rows, int64_t dim) {
  alignas(64) float keep[kLanes], add[kLanes];
  for (int64_t r0 = 0; r0 < rows; r0 += kLanes) {
    const int64_t count = MinOf(kLanes, rows - r0);
    const F32 a = LoadN(total.max + r0, count), b = LoadN(state.max + r0, count), max = Max(a, b);
    const F32 scale_a = ExpNonPositive(a - max), scale_b = ExpNonPositive(b - max);
    StoreN(total.max + r0, max, count);
    StoreN(total.sum + r0, Fma(LoadN(total.sum + r0, count), scale_a, LoadN(state.sum + r0, count) * scale_b),
           count);
    Store(keep, scale_a);
    Store(add, scale_b);
    for (int64_t r = r0; r < r0 + count; ++r) {
      const F32 x = Set1(keep[r - r0]), y = Set1(add[r - r0]);
      for (int64_t i = r * dim; i < (r + 1) * dim; i += kLanes) {
        Store(total.o + i, Fma(Load(total.o + i), x, Load(state.o + i) * y));
      }
    }
  }
}

// One row of the result.
SF_INLINE void WriteRow(const SoftmaxState& total, int64_t row, int64_t dim, int64_t head_dim, float* o) {
  const F32 factor = Set1(1.0f / total.sum[row]);
  for (int64_t i = 0; i < head_dim; i += kLanes) {
    // + 0: a zero has one sign, whatever zeros were added to it.
    StoreN(o + i, Load(total.o + row * dim + i) * factor + Zero(), head_dim - i);
  }
}

// A block of kLanes rows (already transposed) as columns of `out`, kKeyBlock apart; `width` of them exist.
SF_INLINE void StoreColumns(F32 (&block)[kLanes], int64_t width, float* out) {
  if (width >= kLanes) {
#pragma GCC unroll 16
    for (int l = 0; l < kLanes; ++l) Store(out + l * kKeyBlock, block[l]);
  } else {
    alignas(64) float spilled[kLanes][kLanes];
    for (int l = 0; l < kLanes; ++l) Store(spilled[l], block[l]);
    for (int64_t l = 0; l < width; ++l) Store(out + l * kKeyBlock, Load(spilled[l]));
  }
}

// C = (factor ? C * factor[row] : 0) + A B over a tile of columns. `next`: null, or a run of k * kTileColumns
// floats to prefetch on the way. Without kPrefetch B lies in the first-level cache and nothing is prefetched.
template <int kRows, bool kPrefetch>
void ProductTile(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t k, float* c,
                 int64_t c_stride, const float* factor, const float* next) {
  F32 sum[kRows][kTileVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTileVecs; ++v) {
      sum[r][v] = factor == nullptr ? Zero() : Load(c + r * c_stride + v * kLanes) * Set1(factor[r]);
    }
  }
  MultiplyTile<kRows, kTileVecs, kPrefetch>(sum, a, a_stride, b, b_stride, k,
                                            next != nullptr ? next : b + 4 * b_stride,
                                            next != nullptr ? kTileColumns : b_stride);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTileVecs; ++v) Store(c + r * c_stride + v * kLanes, sum[r][v]);
  }
}

using ProductFunction = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t,
                                 const float*, const float*);
template <bool kPrefetch, int... kIndex>
struct Products {
  static constexpr ProductFunction kRows[] = {ProductTile<kIndex + 1, kPrefetch>...};
};
#if defined(__AVX512F__)
template <bool kPrefetch>
using Product = Products<kPrefetch, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11>;
#else
template <bool kPrefetch>
using Product = Products<kPrefetch, 0, 1, 2, 3, 4, 5>;
#endif

// Rows [begin, end) of a task at one key block.
struct RowTile {
  int64_t begin, end;
  int64_t keys;  // leading keys of the block that some row sees, at most
  // Keys whose scores Softmax() reads: those that no row sees are -infinity.
  int64_t padded_keys() const { return (keys + kSums - 1) / kSums * kSums; }
};

// Scores [rows, kKeyBlock] of the task -> weights relative to the new maximum; updates max and sum of the
// tile's rows; factor[row] = e^(old max - new max).
void Softmax(float* scores, const RowTile& tile, const SoftmaxState& state, float* factor) {
  alignas(64) float block_max[kLanes] = {}, block_sum[kLanes] = {};
  const int64_t rows = tile.end - tile.begin;
  for (int64_t r = 0; r < rows; ++r) {
    const float* s = scores + (tile.begin + r) * kKeyBlock;
    F32 max = Load(s);
    for (int64_t j = kLanes; j < tile.padded_keys(); j += kLanes) max = Max(max, Load(s + j));
    block_max[r] = MaxLane(max);
  }
  // Two vectors hold a tile's rows on AVX-512 and AVX2 alike: kTileRows <= kLanes.
  const F32 old_max = LoadN(state.max + tile.begin, rows), new_max = Max(old_max, Load(block_max));
  const F32 scale = ExpNonPositive(old_max - new_max);
  StoreN(state.max + tile.begin, new_max, rows);
  Store(factor, scale);
  for (int64_t r = 0; r < rows; ++r) {
    float* s = scores + (tile.begin + r) * kKeyBlock;
    const F32 max = Set1(state.max[tile.begin + r]);
    F32 sum[kSumVecs] = {};
    for (int64_t j = 0; j < tile.padded_keys(); j += kSums) {
#pragma GCC unroll 2
      for (int v = 0; v < kSumVecs; ++v) {
        const F32 weight = ExpNonPositive(Load(s + j + v * kLanes) - max);
        Store(s + j + v * kLanes, weight);
        sum[v] = sum[v] + weight;
      }
    }
    block_sum[r] = SumOfSums(sum);
  }
  const F32 sum = LoadN(state.sum + tile.begin, rows);
  StoreN(state.sum + tile.begin, Fma(sum, scale, Load(block_sum)), rows);
}

// Calls body(begin, end) for tiles of nearly equal height.
template <typename Body>
SF_INLINE void ForEachRowTile(int64_t row_begin, int64_t row_end, Body body) {
  const int64_t rows = row_end - row_begin, num_tiles = (rows + kTileRows - 1) / kTileRows;
  if (num_tiles == 0) return;
  const int64_t height = rows / num_tiles, num_higher = rows % num_tiles;
  int64_t begin = row_begin;
  for (int64_t i = 0; i < num_tiles; ++i) {
    const int64_t end = begin + height + (i < num_higher ? 1 : 0);
    body(begin, end);
    begin = end;
  }
}

}  // namespace
}  // namespace spikefold::kernels
