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
#include "kernels/cpu/online_softmax.h"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

struct Geometry {
  Geometry(const Params& params, const AttentionTask& t) : p(params), task(t) {
    group = p.num_heads / p.num_kv_heads;
    rows = t.row_end - t.row_begin;
    dim = PaddedDim(p.head_dim);
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

  const Params& p;
  const AttentionTask& task;
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
      StoreColumns(block, width, g.keys + i * kKeyBlock + j);
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

void Scores(const Geometry& g, const RowTile& tile, int64_t j0, const float* next = nullptr) {
  const int64_t rows = tile.end - tile.begin;
  for (int64_t j = 0; j < tile.keys; j += kTileColumns) {
    Product<true>::kRows[rows - 1](g.q + tile.begin * g.p.head_dim, g.p.head_dim, g.keys + j, kKeyBlock,
                                   g.p.head_dim, g.scores + tile.begin * kKeyBlock + j, kKeyBlock, nullptr,
                                   next != nullptr ? next + j * g.p.head_dim : nullptr);
  }
  for (int64_t r = tile.begin; r < tile.end; ++r) Mask(g, r, j0, tile.padded_keys());
}

// Calls body(tile) for tiles of nearly equal height that see something of the block.
template <typename Body>
SF_INLINE void ForEachTileOfRows(const Geometry& g, int64_t j0, Body body) {
  ForEachRowTile(
      0, g.rows, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        const RowTile tile = {begin, end, MinOf(kKeyBlock, g.Position(end - 1) + 1 - j0)};
        const bool hidden = j0 >= g.sinks && j0 + kKeyBlock <= g.Begin(begin);
        if (tile.keys > 0 && !hidden) body(tile);
      });
}

// Whether some row of the task sees some key of [j0, j0 + count).
bool Seen(const Geometry& g, int64_t j0, int64_t count) {
  return j0 < g.end && (j0 < g.sinks || j0 + count > g.Begin(0));
}

void RunBlock(const Geometry& g, int64_t j0, const SoftmaxState& state, const Next& next) {
  const int64_t count = MinOf(kKeyBlock, g.end - j0);
  TransposeKeys(g, j0, count);
  int64_t value_stride;
  const float* values = Values(g, j0, count, value_stride);
  ForEachTileOfRows(
      g, j0, [&](const RowTile& tile) __attribute__((always_inline)) {
        alignas(64) float factor[kLanes];
        const bool is_first = tile.begin == 0;
        Scores(g, tile, j0, is_first ? next.keys : nullptr);
        Softmax(g.scores, tile, state, factor);
        for (int64_t i = 0; i < g.dim; i += kTileColumns) {
          Product<true>::kRows[tile.end - tile.begin - 1](
              g.scores + tile.begin * kKeyBlock, kKeyBlock, values + i, value_stride, tile.keys,
              state.o + tile.begin * g.dim + i, g.dim, factor,
              is_first && next.values != nullptr ? next.values + i * kKeyBlock : nullptr);
        }
      });
}

void RunSpan(const Geometry& g, int64_t span, const SoftmaxState& state) {
  ClearState(state, g.rows, g.dim);
  const int64_t span_end = MinOf(g.end, (span + 1) * kSpan);
  for (int64_t j0 = span * kSpan; j0 < span_end; j0 += kKeyBlock) {
    if (Seen(g, j0, kKeyBlock)) RunBlock(g, j0, state, {});
  }
}

void WriteOutput(const Geometry& g, const SoftmaxState& total) {
  for (int64_t r = 0; r < g.rows; ++r) {
    const int64_t row = g.Query(r) * g.p.num_heads + g.Head(r);
    WriteRow(total, r, g.dim, g.p.head_dim, g.p.o + row * g.p.head_dim);
    if (g.p.lse != nullptr) g.p.lse[row] = total.max[r] + __builtin_logf(total.sum[r]);
  }
}

// A second pass over the scores, when the rows' final maxima and sums are known.
void AddColumnMass(const Geometry& g, const SoftmaxState& total) {
  const int64_t positions = g.p.first + g.p.m;
  for (int64_t j0 = 0; j0 < g.end; j0 += kKeyBlock) {
    if (!Seen(g, j0, kKeyBlock)) continue;
    TransposeKeys(g, j0, MinOf(kKeyBlock, g.end - j0));
    ForEachTileOfRows(
        g, j0, [&](const RowTile& tile) __attribute__((always_inline)) {
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

void RunTask(const Params& p, const AttentionTask& task) {
  const Geometry g(p, task);
  const SoftmaxState total = StateAt(g.states, g.rows),
                     state = StateAt(g.states + StateFloats(p.head_dim, kTaskRows), g.rows);
  LoadQueries(g);
  ClearState(total, g.rows, g.dim);
  for (int64_t span = 0; span * kSpan < g.end; ++span) {
    if (!Seen(g, span * kSpan, kSpan)) continue;
    RunSpan(g, span, state);
    MergeState(total, state, g.rows, g.dim);
  }
  WriteOutput(g, total);
  if (p.column_mass != nullptr) AddColumnMass(g, total);
}

void RunTaskSpan(const Params& p, const AttentionTask& task, int64_t span, float* state) {
  const Geometry g(p, task);
  LoadQueries(g);
  RunSpan(g, span, StateAt(state, g.rows));
}

// Block by block for all heads, so that the cache is read in the order in which it lies: while head h
// computes, the h-th part of the next block is prefetched.
void RunAllHeadsSpan(const Params& p, const AttentionTask& rows, int64_t span, float* states,
                     int64_t state_stride) {
  AttentionTask task = rows;
  const Geometry all(p, rows);
  const int64_t span_end = MinOf(all.end, (span + 1) * kSpan), run = kKeyBlock * p.head_dim;
  for (task.kv_head = 0; task.kv_head < p.num_kv_heads; ++task.kv_head) {
    const Geometry g(p, task);
    ClearState(StateAt(states + task.kv_head * state_stride, g.rows), g.rows, g.dim);
  }
  for (int64_t j0 = span * kSpan; j0 < span_end; j0 += kKeyBlock) {
    if (!Seen(all, j0, kKeyBlock)) continue;
    const bool has_next = j0 + 2 * kKeyBlock <= all.end;
    for (task.kv_head = 0; task.kv_head < p.num_kv_heads; ++task.kv_head) {
      const Geometry g(p, task);
      const int64_t at = (j0 + kKeyBlock) * g.kv_stride + task.kv_head * run;
      LoadQueries(g);
      RunBlock(g, j0, StateAt(states + task.kv_head * state_stride, g.rows),
               has_next ? Next{p.k + at, p.v + at} : Next{});
    }
  }
}

void MergeTask(const Params& p, const AttentionTask& task, const float* states, int64_t num_spans) {
  const Geometry g(p, task);
  const SoftmaxState total = StateAt(g.states, g.rows);
  ClearState(total, g.rows, g.dim);
  for (int64_t span = 0; span < num_spans; ++span) {
    float* state = const_cast<float*>(states) + span * StateFloats(p.head_dim, g.rows);
    MergeState(total, StateAt(state, g.rows), g.rows, g.dim);
  }
  WriteOutput(g, total);
}

}  // namespace
}  // namespace spikefold::kernels::attention_f32_f32
