// Between the dispatcher and the targets.
//
// The rows of a KV head are its queries of all positions and of the heads that share it: row r is query
// position r / group of head kv_head * group + r % group, group = num_heads / num_kv_heads. A task is a range
// of rows of one KV head. The keys are cut at absolute positions into spans of kSpan; each span is an online
// softmax of its own over blocks of kKeyBlock, and the spans' states are merged in order. So spans may run on
// different threads (a long cache, few rows) or one after the other (a prefill) with the same result.
#pragma once

#include <cstdint>

#include "kernels/attention_f32_f32/attention_f32_f32.h"

namespace spikefold::kernels::attention_f32_f32 {

inline constexpr int64_t kKeyBlock = 64;
inline constexpr int64_t kSpan = 256;
inline constexpr int64_t kTaskRows = 96;

// First position that query row m sees beside the pinned sinks.
inline int64_t FirstSeen(const Params& p, int64_t m) {
  return p.window > 0 && p.first + m - p.window + 1 > 0 ? p.first + m - p.window + 1 : 0;
}

// head_dim padded to whole register tiles.
inline int64_t PaddedDim(const Params& p) { return (p.head_dim + 31) / 32 * 32; }

// State of `rows` rows: max[rows], sum[rows], o[rows, PaddedDim], in that order.
inline int64_t StateFloats(const Params& p, int64_t rows) { return rows * (2 + PaddedDim(p)); }
// What a task needs beside its states.
inline int64_t ScratchFloats(const Params& p) {
  const int64_t q = kTaskRows * p.head_dim, scores = kTaskRows * kKeyBlock;
  const int64_t keys = p.head_dim * kKeyBlock, values = kKeyBlock * PaddedDim(p);
  return q + scores + keys + values + 2 * StateFloats(p, kTaskRows);
}

struct Task {
  int64_t kv_head, row_begin, row_end;
  float* scratch;  // [ScratchFloats]
};

struct TargetFunctions {
  // Rows of a task from the first key to the last: writes o and adds to column_mass.
  void (*run)(const Params& p, const Task& task);
  // One span of a task into `state`.
  void (*run_span)(const Params& p, const Task& task, int64_t span, float* state);
  // The same for every KV head; head h into states + h * state_stride. task.kv_head is not read.
  void (*run_all_heads_span)(const Params& p, const Task& task, int64_t span, float* states,
                             int64_t state_stride);
  // Merges the states of `num_spans` consecutive spans and writes o.
  void (*merge)(const Params& p, const Task& task, const float* states, int64_t num_spans);
};
extern const TargetFunctions kAvx2, kAvx512;

// Rows [m_begin, m_end) of one head in float64, column_mass included.
void RowsPlain(const Params& params, int64_t head, int64_t m_begin, int64_t m_end);

}  // namespace spikefold::kernels::attention_f32_f32
