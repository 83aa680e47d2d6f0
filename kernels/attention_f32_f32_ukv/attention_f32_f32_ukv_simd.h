// attention_f32_f32_ukv for a vector level (anonymous namespace: nothing here is shared between the objects).
//
// As attention_f32_f32: a task's rows go over the key blocks together. What differs is where a block's keys
// [channel, 64] and values [64, channel] come from: f16 rows or codes, decoded to float in scratch memory
// that stays in the first-level cache. A page near the query is met in both forms, each by the rows that see
// it so: rows ascend in position, hence the first rows see f16 and the last rows codes.
#pragma once

#include <cstdint>

#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_isa.h"
#include "kernels/attention_f32_f32_ukv/decode_simd.h"
#include "kernels/cpu/online_softmax.h"

namespace spikefold::kernels::attention_f32_f32_ukv {
namespace {

struct Geometry {
  Geometry(const Params& params, const AttentionTask& t) : p(params), task(t), layout(params.format) {
    group = p.num_heads / p.num_kv_heads;
    rows = t.row_end - t.row_begin;
    dim = PaddedDim(p.head_dim);
    half = p.head_dim / 2;
    q = t.scratch;
    pinned_q = q + kTaskRows * p.head_dim;
    page_q = pinned_q + kTaskRows * p.head_dim;
    scores = page_q + kTaskRows * p.head_dim;
    keys = scores + kTaskRows * kKeyBlock;
    values = keys + p.head_dim * kKeyBlock;
    scales = values + kKeyBlock * ValueStride(p);
    states = scales + ScaleFloats(p);
  }
  int64_t Query(int64_t r) const { return (task.row_begin + r) / group; }
  int64_t Position(int64_t r) const { return p.first + Query(r); }
  int64_t Head(int64_t r) const { return task.kv_head * group + (task.row_begin + r) % group; }
  // The first row at `position` or behind it.
  int64_t RowFrom(int64_t position) const {
    return MinOf(rows, MaxOf(0, (position - p.first) * group - task.row_begin));
  }

  const Params& p;
  const AttentionTask& task;
  const KvPageLayout layout;
  int64_t group, rows, dim, half;
  float *q, *pinned_q, *page_q, *scores, *keys, *values, *scales, *states;
};

// out = q turned back by an angle: what keys stored without that angle are multiplied with.
SF_INLINE void TurnBack(const Geometry& g, const float* q, const float* cos, float* out) {
  const float* sin = cos + g.half;
  for (int64_t i = 0; i < g.half; i += kLanes) {
    const int64_t n = g.half - i;
    const F32 a = LoadN(q + i, n), b = LoadN(q + g.half + i, n), c = LoadN(cos + i, n), s = LoadN(sin + i, n);
    StoreN(out + i, Fma(a, c, b * s), n);
    StoreN(out + g.half + i, NegFma(a, s, b * c), n);
  }
}

void LoadQueries(const Geometry& g) {
  const int64_t d = g.p.head_dim;
  for (int64_t r = 0; r < g.rows; ++r) {
    const float* in = g.p.q + (g.Query(r) * g.p.num_heads + g.Head(r)) * d;
    for (int64_t i = 0; i < d; ++i) g.q[r * d + i] = in[i] * g.p.scale;
    if (g.p.evict > 0) {
      TurnBack(g, g.q + r * d, g.p.pinned_turn + g.Query(r) * 2 * g.half, g.pinned_q + r * d);
    }
  }
}

// Keys and values of one block in floats, and who sees them.
struct Block {
  enum Kind { kPinned, kRows, kCodes } kind;
  int64_t page;                // kRows, kCodes
  int64_t begin;               // position of its first key
  int64_t row_begin, row_end;  // rows of the task that see it in this form
  const float* q;              // [rows, head_dim] as its keys need them
};

// Keys [lo, hi) of the block that row r sees.
struct Seen {
  int64_t lo, hi;
};
SF_INLINE Seen SeenBy(const Geometry& g, const Block& b, int64_t r) {
  const int64_t position = g.Position(r);
  const Sight sight = SightOf(g.p, position);
  const int64_t lo = b.kind == Block::kPinned ? sight.pinned_begin : sight.begin;
  const int64_t hi = b.kind == Block::kPinned ? sight.pinned_end : position + 1;
  return {MaxOf(0, MinOf(kKeyBlock, lo - b.begin)), MaxOf(0, MinOf(kKeyBlock, hi - b.begin))};
}

void Scores(const Geometry& g, const Block& b, const RowTile& tile) {
  const int64_t rows = tile.end - tile.begin, d = g.p.head_dim;
  for (int64_t j = 0; j < tile.keys; j += kTileColumns) {
    Product<false>::kRows[rows - 1](b.q + tile.begin * d, d, g.keys + j, kKeyBlock, d,
                                    g.scores + tile.begin * kKeyBlock + j, kKeyBlock, nullptr, nullptr);
  }
  const int64_t padded_keys = tile.padded_keys();
  for (int64_t r = tile.begin; r < tile.end; ++r) {
    const Seen seen = SeenBy(g, b, r);
    float* s = g.scores + r * kKeyBlock;
    for (int64_t j = 0; j < MinOf(seen.lo, padded_keys); ++j) s[j] = -__builtin_inff();
    for (int64_t j = seen.hi; j < padded_keys; ++j) s[j] = -__builtin_inff();
  }
}

void LoadBlock(const Geometry& g, const Block& b, int64_t keys) {
  const Params& p = g.p;
  if (b.kind == Block::kCodes) {
    const uint8_t* part = p.pages[b.page] + g.task.kv_head * g.layout.head_bytes;
    DecodeKeys(p, g.layout, part, g.task.kv_head, g.scales, g.keys);
    DecodeValues(p, g.layout, part, keys, g.scales, g.values);
    return;
  }
  const bool pinned = b.kind == Block::kPinned;
  const int64_t row = pinned ? b.begin : b.begin - PageBegin(p, p.first_row_page);
  const int64_t stride = p.num_kv_heads * p.head_dim, at = row * stride + g.task.kv_head * p.head_dim;
  WidenKeys((pinned ? p.pinned_k : p.rows_k) + at, stride, p.head_dim, keys, g.keys);
  WidenValues((pinned ? p.pinned_v : p.rows_v) + at, stride, p.head_dim, keys, ValueStride(p), g.values);
}

void RunForm(const Geometry& g, Block b, const SoftmaxState& state) {
  if (b.row_begin == b.row_end) return;
  const int64_t lo = SeenBy(g, b, b.row_begin).lo, hi = SeenBy(g, b, b.row_end - 1).hi;
  if (lo >= hi) return;
  LoadBlock(g, b, hi);
  if (b.kind == Block::kCodes && g.p.page_base != nullptr) {
    for (int64_t r = b.row_begin; r < b.row_end; ++r) {
      TurnBack(g, g.q + r * g.p.head_dim, g.p.page_base[b.page], g.page_q + r * g.p.head_dim);
    }
  }
  const int64_t value_stride = ValueStride(g.p);
  ForEachRowTile(
      b.row_begin, b.row_end, [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        const RowTile tile = {begin, end, SeenBy(g, b, end - 1).hi};
        if (SeenBy(g, b, begin).lo >= tile.keys) return;
        alignas(64) float factor[kLanes];
        Scores(g, b, tile);
        Softmax(g.scores, tile, state, factor);
        for (int64_t i = 0; i < g.dim; i += kTileColumns) {
          Product<false>::kRows[end - begin - 1](g.scores + begin * kKeyBlock, kKeyBlock, g.values + i,
                                                 value_stride, tile.keys, state.o + begin * g.dim + i, g.dim,
                                                 factor, nullptr);
        }
      });
}

void RunPage(const Geometry& g, int64_t page, const SoftmaxState& state) {
  const int64_t begin = PageBegin(g.p, page), coded = g.RowFrom(CodedFrom(g.p, page));
  const float* page_q = g.p.page_base != nullptr ? g.page_q : g.q;
  RunForm(g, {Block::kCodes, page, begin, coded, g.rows, page_q}, state);
  RunForm(g, {Block::kRows, page, begin, g.RowFrom(begin), coded, g.q}, state);
}

void RunSpan(const Geometry& g, int64_t index, const SoftmaxState& state) {
  ClearState(state, g.rows, g.dim);
  const Spans spans = SpansOf(g.p);
  if (index < spans.num_pinned) {
    const float* q = g.p.evict > 0 ? g.pinned_q : g.q;
    for (int64_t b = index * kSpanBlocks; b < (index + 1) * kSpanBlocks; ++b) {
      RunForm(g, {Block::kPinned, 0, b * kKeyBlock, 0, g.rows, q}, state);
    }
    return;
  }
  const int64_t first = (index - spans.num_pinned + spans.first_page_span) * kSpanBlocks;
  for (int64_t page = first; page < first + kSpanBlocks; ++page) RunPage(g, page, state);
}

void WriteOutput(const Geometry& g, const SoftmaxState& total) {
  for (int64_t r = 0; r < g.rows; ++r) {
    WriteRow(total, r, g.dim, g.p.head_dim, g.p.o + (g.Query(r) * g.p.num_heads + g.Head(r)) * g.p.head_dim);
  }
}

void RunTask(const Params& p, const AttentionTask& task) {
  const Geometry g(p, task);
  const SoftmaxState total = StateAt(g.states, g.rows),
                     state = StateAt(g.states + StateFloats(p.head_dim, kTaskRows), g.rows);
  LoadQueries(g);
  ClearState(total, g.rows, g.dim);
  const int64_t num_spans = SpansOf(p).num_spans;
  for (int64_t span = 0; span < num_spans; ++span) {
    RunSpan(g, span, state);
    MergeState(total, state, g.rows, g.dim);
  }
  WriteOutput(g, total);
}

void RunTaskSpan(const Params& p, const AttentionTask& task, int64_t span, float* state) {
  const Geometry g(p, task);
  LoadQueries(g);
  RunSpan(g, span, StateAt(state, g.rows));
}

void RunAllHeadsSpan(const Params& p, const AttentionTask& rows, int64_t span, float* states,
                     int64_t state_stride) {
  AttentionTask task = rows;
  for (task.kv_head = 0; task.kv_head < p.num_kv_heads; ++task.kv_head) {
    RunTaskSpan(p, task, span, states + task.kv_head * state_stride);
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
}  // namespace spikefold::kernels::attention_f32_f32_ukv
