// attention_f32_f32 for a vector level (anonymous namespace: nothing here is shared between the objects).
//
// A task's rows (up to 96) go over the key blocks together, in register tiles of kTileRows rows:
//   scores = Q K^T      from a transposed copy of the block's keys, so that lanes are keys
//   softmax             row maximum, exp, row sum; the factor for what was summed before
//   O = O * factor + P V
// What a row does not see gets a score of -infinity and a weight of exactly 0, which changes no sum: hence a
// row's result does not depend on the rows beside it. A block that nobody in a tile sees is skipped.
#pragma once

#include <cstdint>

#include "kernels/attention_f32_f32/attention_f32_f32_isa.h"
#include "kernels/cpu/multiply_tile.h"
#include "kernels/cpu/vec_math.h"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

constexpr int kTileRows = kLanes == 16 ? 12 : 6;
constexpr int kTileVecs = 2;
constexpr int64_t kTileColumns = kTileVecs * kLanes;
constexpr float kNoMax = -1e30f;  // below any score; finite, so that differences of maxima are

struct State {
  float* max;  // [rows]
  float* sum;  // [rows]
  float* o;    // [rows, dim]
};

struct Geometry {
  Geometry(const Params& params, const Task& t) : p(params), task(t) {
    group = p.num_heads / p.num_kv_heads;
    rows = t.row_end - t.row_begin;
    dim = PaddedDim(p);
    kv_stride = p.num_kv_heads * p.head_dim;
    sinks = p.pin_sinks ? p.num_sinks : 0;
    end = Position(rows - 1) + 1;
    q = t.scratch;
    scores = q + kTaskRows * p.head_dim;
    keys = scores + kTaskRows * kKeyBlock;
    values = keys + p.head_dim * kKeyBlock;
    states = values + kKeyBlock * dim;
  }
  int64_t Query(int64_t r) const { return (task.row_begin + r) / group; }
  int64_t Position(int64_t r) const { return p.first + Query(r); }
  int64_t Begin(int64_t r) const { return FirstSeen(p, Query(r)); }
  int64_t Head(int64_t r) const { return task.kv_head * group + (task.row_begin + r) % group; }
  State StateAt(float* at) const { return {at, at + rows, at + 2 * rows}; }

  const Params& p;
  const Task& task;
  int64_t group, rows, dim, kv_stride, sinks;
  int64_t end;  // one past the last position seen by any row
  float *q, *scores, *keys, *values, *states;
};

void LoadQueries(const Geometry& g) {
  for (int64_t r = 0; r < g.rows; ++r) {
    const float* in = g.p.q + (g.Query(r) * g.p.num_heads + g.Head(r)) * g.p.head_dim;
    for (int64_t i = 0; i < g.p.head_dim; ++i) g.q[r * g.p.head_dim + i] = in[i] * g.p.scale;
  }
}

// keys[i, j] = K[j0 + j][i] for j < count, 0 for the other j.
void TransposeKeys(const Geometry& g, int64_t j0, int64_t count) {
  const float* in = g.p.k + j0 * g.kv_stride + g.task.kv_head * g.p.head_dim;
  for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
    for (int64_t i = 0; i < g.p.head_dim; i += kLanes) {
      const int64_t width = MinOf(kLanes, g.p.head_dim - i);
      F32 block[kLanes];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) {
        const float* row = in + (j + l) * g.kv_stride + i;
        block[l] = j + l >= count ? Zero() : width == kLanes ? Load(row) : LoadN(row, width);
      }
      Transpose(block);
      float* out = g.keys + i * kKeyBlock + j;
      if (width == kLanes) {
#pragma GCC unroll 16
        for (int l = 0; l < kLanes; ++l) Store(out + l * kKeyBlock, block[l]);
      } else {
        alignas(64) float spilled[kLanes][kLanes];
        for (int l = 0; l < kLanes; ++l) Store(spilled[l], block[l]);
        for (int64_t l = 0; l < width; ++l) Store(out + l * kKeyBlock, Load(spilled[l]));
      }
    }
  }
}

// The block's values as [keys, dim] with a stride: in place if rows need no padding.
const float* Values(const Geometry& g, int64_t j0, int64_t count, int64_t& stride) {
  const float* in = g.p.v + j0 * g.kv_stride + g.task.kv_head * g.p.head_dim;
  stride = g.kv_stride;
  if (g.dim == g.p.head_dim) return in;
  stride = g.dim;
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t i = 0; i < g.dim; i += kLanes) {
      Store(g.values + j * g.dim + i, LoadN(in + j * g.kv_stride + i, MaxOf(0, g.p.head_dim - i)));
    }
  }
  return g.values;
}

// C = (factor ? C * factor[row] : 0) + A B over a tile of columns. `next`: null, or a run of k * kTileColumns
// floats to prefetch on the way.
template <int kRows>
void ProductTile(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t k, float* c,
                 int64_t c_stride, const float* factor, const float* next) {
  F32 sum[kRows][kTileVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTileVecs; ++v) {
      sum[r][v] = factor == nullptr ? Zero() : Load(c + r * c_stride + v * kLanes) * Set1(factor[r]);
    }
  }
  MultiplyTile<kRows, kTileVecs>(sum, a, a_stride, b, b_stride, k, next != nullptr ? next : b + 4 * b_stride,
                                 next != nullptr ? kTileColumns : b_stride);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kTileVecs; ++v) Store(c + r * c_stride + v * kLanes, sum[r][v]);
  }
}

using ProductFunction = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t,
                                 const float*, const float*);
template <int... kIndex>
struct Products {
  static constexpr ProductFunction kRows[] = {ProductTile<kIndex + 1>...};
};
#if defined(__AVX512F__)
using Product = Products<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11>;
#else
using Product = Products<0, 1, 2, 3, 4, 5>;
#endif

// Rows [begin, end) of a task at one key block.
struct Tile {
  int64_t begin, end;
  int64_t keys;  // leading keys of the block that some row sees, at most
};

// Runs of kKeyBlock * head_dim floats that a block's first tile prefetches; null: none.
struct Next {
  const float *keys = nullptr, *values = nullptr;
};

// Scores that row r does not see, up to the end of the vectors in use, become -infinity.
void Mask(const Geometry& g, int64_t r, int64_t j0, int64_t padded_keys) {
  float* s = g.scores + r * kKeyBlock;
  const int64_t seen_end = MinOf(padded_keys, g.Position(r) + 1 - j0);
  const int64_t hidden_begin = MaxOf(0, MinOf(padded_keys, g.sinks - j0));
  const int64_t hidden_end = MinOf(padded_keys, g.Begin(r) - j0);
  for (int64_t j = hidden_begin; j < hidden_end; ++j) s[j] = -__builtin_inff();
  for (int64_t j = MaxOf(0, seen_end); j < padded_keys; ++j) s[j] = -__builtin_inff();
}

void Scores(const Geometry& g, const Tile& tile, int64_t j0, const float* next = nullptr) {
  const int64_t rows = tile.end - tile.begin;
  for (int64_t j = 0; j < tile.keys; j += kTileColumns) {
    Product::kRows[rows - 1](g.q + tile.begin * g.p.head_dim, g.p.head_dim, g.keys + j, kKeyBlock,
                             g.p.head_dim, g.scores + tile.begin * kKeyBlock + j, kKeyBlock, nullptr,
                             next != nullptr ? next + j * g.p.head_dim : nullptr);
  }
  const int64_t padded_keys = (tile.keys + kLanes - 1) / kLanes * kLanes;
  for (int64_t r = tile.begin; r < tile.end; ++r) Mask(g, r, j0, padded_keys);
}

// Scores -> weights relative to the new maximum; updates max and sum; factor[row] = e^(old max - new max).
void Softmax(const Geometry& g, const Tile& tile, const State& state, float* factor) {
  alignas(64) float block_max[kLanes] = {}, block_sum[kLanes] = {};
  const int64_t rows = tile.end - tile.begin;
  for (int64_t r = 0; r < rows; ++r) {
    const float* s = g.scores + (tile.begin + r) * kKeyBlock;
    F32 max = Load(s);
    for (int64_t j = kLanes; j < tile.keys; j += kLanes) max = Max(max, Load(s + j));
    block_max[r] = MaxLane(max);
  }
  // Two vectors hold a tile's rows on AVX-512 and AVX2 alike: kTileRows <= kLanes.
  const F32 old_max = LoadN(state.max + tile.begin, rows), new_max = Max(old_max, Load(block_max));
  const F32 scale = ExpNonPositive(old_max - new_max);
  StoreN(state.max + tile.begin, new_max, rows);
  Store(factor, scale);
  for (int64_t r = 0; r < rows; ++r) {
    float* s = g.scores + (tile.begin + r) * kKeyBlock;
    const F32 max = Set1(state.max[tile.begin + r]);
    F32 sum = Zero();
    for (int64_t j = 0; j < tile.keys; j += kLanes) {
      const F32 weight = ExpNonPositive(Load(s + j) - max);
      Store(s + j, weight);
      sum = sum + weight;
    }
    block_sum[r] = Sum(sum);
  }
  const F32 sum = LoadN(state.sum + tile.begin, rows);
  StoreN(state.sum + tile.begin, Fma(sum, scale, Load(block_sum)), rows);
}

// Calls body(tile) for tiles of nearly equal height that see something of the block.
template <typename Body>
SF_INLINE void ForEachTileOfRows(const Geometry& g, int64_t j0, Body body) {
  const int64_t num_tiles = (g.rows + kTileRows - 1) / kTileRows;
  const int64_t height = g.rows / num_tiles, num_higher = g.rows % num_tiles;
  int64_t begin = 0;
  for (int64_t i = 0; i < num_tiles; ++i) {
    const int64_t end = begin + height + (i < num_higher ? 1 : 0);
    const Tile tile = {begin, end, MinOf(kKeyBlock, g.Position(end - 1) + 1 - j0)};
    begin = end;
    const bool hidden = j0 >= g.sinks && j0 + kKeyBlock <= g.Begin(tile.begin);
    if (tile.keys > 0 && !hidden) body(tile);
  }
}

// Whether some row of the task sees some key of [j0, j0 + count).
bool Seen(const Geometry& g, int64_t j0, int64_t count) {
  return j0 < g.end && (j0 < g.sinks || j0 + count > g.Begin(0));
}

void ClearState(const Geometry& g, const State& state) {
  for (int64_t r = 0; r < g.rows; ++r) {
    state.max[r] = kNoMax;
    state.sum[r] = 0;
  }
  for (int64_t i = 0; i < g.rows * g.dim; i += kLanes) Store(state.o + i, Zero());
}

void RunBlock(const Geometry& g, int64_t j0, const State& state, const Next& next) {
  const int64_t count = MinOf(kKeyBlock, g.end - j0);
  TransposeKeys(g, j0, count);
  int64_t value_stride;
  const float* values = Values(g, j0, count, value_stride);
  ForEachTileOfRows(
      g, j0, [&](const Tile& tile) __attribute__((always_inline)) {
        alignas(64) float factor[kLanes];
        const bool is_first = tile.begin == 0;
        Scores(g, tile, j0, is_first ? next.keys : nullptr);
        Softmax(g, tile, state, factor);
        for (int64_t i = 0; i < g.dim; i += kTileColumns) {
          Product::kRows[tile.end - tile.begin - 1](
              g.scores + tile.begin * kKeyBlock, kKeyBlock, values + i, value_stride, tile.keys,
              state.o + tile.begin * g.dim + i, g.dim, factor,
              is_first && next.values != nullptr ? next.values + i * kKeyBlock : nullptr);
        }
      });
}

void RunSpan(const Geometry& g, int64_t span, const State& state) {
  ClearState(g, state);
  const int64_t span_end = MinOf(g.end, (span + 1) * kSpan);
  for (int64_t j0 = span * kSpan; j0 < span_end; j0 += kKeyBlock) {
    if (Seen(g, j0, kKeyBlock)) RunBlock(g, j0, state, {});
  }
}

// total += state. With both maxima at kNoMax nothing changes.
void MergeState(const Geometry& g, const State& total, const State& state) {
  alignas(64) float keep[kLanes], add[kLanes];
  for (int64_t r0 = 0; r0 < g.rows; r0 += kLanes) {
    const int64_t count = MinOf(kLanes, g.rows - r0);
    const F32 a = LoadN(total.max + r0, count), b = LoadN(state.max + r0, count), max = Max(a, b);
    const F32 scale_a = ExpNonPositive(a - max), scale_b = ExpNonPositive(b - max);
    StoreN(total.max + r0, max, count);
    StoreN(total.sum + r0, Fma(LoadN(total.sum + r0, count), scale_a, LoadN(state.sum + r0, count) * scale_b),
           count);
    Store(keep, scale_a);
    Store(add, scale_b);
    for (int64_t r = r0; r < r0 + count; ++r) {
      const F32 x = Set1(keep[r - r0]), y = Set1(add[r - r0]);
      for (int64_t i = r * g.dim; i < (r + 1) * g.dim; i += kLanes) {
        Store(total.o + i, Fma(Load(total.o + i), x, Load(state.o + i) * y));
      }
    }
  }
}

void WriteOutput(const Geometry& g, const State& total) {
  for (int64_t r = 0; r < g.rows; ++r) {
    float* o = g.p.o + (g.Query(r) * g.p.num_heads + g.Head(r)) * g.p.head_dim;
    const F32 factor = Set1(1.0f / total.sum[r]);
    for (int64_t i = 0; i < g.p.head_dim; i += kLanes) {
      // + 0: a zero has one sign, whatever zeros were added to it.
      StoreN(o + i, Load(total.o + r * g.dim + i) * factor + Zero(), g.p.head_dim - i);
    }
  }
}

// A second pass over the scores, when the rows' final maxima and sums are known.
void AddColumnMass(const Geometry& g, const State& total) {
  const int64_t positions = g.p.first + g.p.m;
  for (int64_t j0 = 0; j0 < g.end; j0 += kKeyBlock) {
    if (!Seen(g, j0, kKeyBlock)) continue;
    TransposeKeys(g, j0, MinOf(kKeyBlock, g.end - j0));
    ForEachTileOfRows(
        g, j0, [&](const Tile& tile) __attribute__((always_inline)) {
          Scores(g, tile, j0);
          for (int64_t r = tile.begin; r < tile.end; ++r) {
            double* mass = g.p.column_mass + g.Head(r) * positions + j0;
            const F32 max = Set1(total.max[r]), factor = Set1(1.0f / total.sum[r]);
            for (int64_t j = 0; j < tile.keys; j += kLanes) {
              alignas(64) float weight[kLanes];
              Store(weight, ExpNonPositive(Load(g.scores + r * kKeyBlock + j) - max) * factor);
              for (int64_t l = 0; l < MinOf(kLanes, tile.keys - j); ++l) mass[j + l] += weight[l];
            }
          }
        });
  }
}

void RunTask(const Params& p, const Task& task) {
  const Geometry g(p, task);
  const State total = g.StateAt(g.states), state = g.StateAt(g.states + StateFloats(p, kTaskRows));
  LoadQueries(g);
  ClearState(g, total);
  for (int64_t span = 0; span * kSpan < g.end; ++span) {
    if (!Seen(g, span * kSpan, kSpan)) continue;
    RunSpan(g, span, state);
    MergeState(g, total, state);
  }
  WriteOutput(g, total);
  if (p.column_mass != nullptr) AddColumnMass(g, total);
}

void RunTaskSpan(const Params& p, const Task& task, int64_t span, float* state) {
  const Geometry g(p, task);
  LoadQueries(g);
  RunSpan(g, span, g.StateAt(state));
}

// Block by block for all heads, so that the cache is read in the order in which it lies: while head h
// computes, the h-th part of the next block is prefetched.
void RunAllHeadsSpan(const Params& p, const Task& rows, int64_t span, float* states, int64_t state_stride) {
  Task task = rows;
  const Geometry all(p, rows);
  const int64_t span_end = MinOf(all.end, (span + 1) * kSpan), run = kKeyBlock * p.head_dim;
  for (task.kv_head = 0; task.kv_head < p.num_kv_heads; ++task.kv_head) {
    const Geometry g(p, task);
    ClearState(g, g.StateAt(states + task.kv_head * state_stride));
  }
  for (int64_t j0 = span * kSpan; j0 < span_end; j0 += kKeyBlock) {
    if (!Seen(all, j0, kKeyBlock)) continue;
    const bool has_next = j0 + 2 * kKeyBlock <= all.end;
    for (task.kv_head = 0; task.kv_head < p.num_kv_heads; ++task.kv_head) {
      const Geometry g(p, task);
      const int64_t at = (j0 + kKeyBlock) * g.kv_stride + task.kv_head * run;
      LoadQueries(g);
      RunBlock(g, j0, g.StateAt(states + task.kv_head * state_stride),
               has_next ? Next{p.k + at, p.v + at} : Next{});
    }
  }
}

void MergeTask(const Params& p, const Task& task, const float* states, int64_t num_spans) {
  const Geometry g(p, task);
  const State total = g.StateAt(g.states);
  ClearState(g, total);
  for (int64_t span = 0; span < num_spans; ++span) {
    MergeState(g, total, g.StateAt(const_cast<float*>(states) + span * StateFloats(p, g.rows)));
  }
  WriteOutput(g, total);
}

}  // namespace
}  // namespace spikefold::kernels::attention_f32_f32
