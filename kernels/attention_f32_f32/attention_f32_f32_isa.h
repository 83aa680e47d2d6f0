// Between the dispatcher and the targets. Keys are cut at absolute positions into blocks of kKeyBlock and
// spans of kSpan; kernels/attention_tasks.h says what a task is.
#pragma once

#include <cstdint>

#include "kernels/attention_f32_f32/attention_f32_f32.h"
#include "kernels/attention_tasks.h"

namespace spikefold::kernels::attention_f32_f32 {

inline constexpr int64_t kSpan = kSpanBlocks * kKeyBlock;

// First position that query row m sees beside the pinned sinks.
inline int64_t FirstSeen(const Params& p, int64_t m) {
  return p.window > 0 && p.first + m - p.window + 1 > 0 ? p.first + m - p.window + 1 : 0;
}

// What a task needs beside its states.
inline int64_t ScratchFloats(const Params& p) {
  const int64_t q = kTaskRows * p.head_dim, scores = kTaskRows * kKeyBlock;
  const int64_t keys = p.head_dim * kKeyBlock, values = kKeyBlock * PaddedDim(p.head_dim);
  return q + scores + keys + values + 2 * StateFloats(p.head_dim, kTaskRows);
}

extern const AttentionTarget<Params> kAvx2, kAvx512;

// Rows [m_begin, m_end) of one head in float64, column_mass included.
void RowsPlain(const Params& params, int64_t head, int64_t m_begin, int64_t m_end);

}  // namespace spikefold::kernels::attention_f32_f32
