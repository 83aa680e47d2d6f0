// Between the dispatcher and the targets: a function a target.
#pragma once

#include <cstdint>

#include "kernels/attention_f32_f32/attention_f32_f32.h"

namespace spikefold::kernels::attention_f32_f32 {

// First position that query row m sees beside the pinned sinks.
inline int64_t FirstSeen(const Params& p, int64_t m) {
  return p.window > 0 && p.first + m - p.window + 1 > 0 ? p.first + m - p.window + 1 : 0;
}

// Rows [m_begin, m_end) of one head, column_mass included.
using RowsFunction = void(const Params& params, int64_t head, int64_t m_begin, int64_t m_end);
RowsFunction RowsPlain, RowsAvx2, RowsAvx512;

}  // namespace spikefold::kernels::attention_f32_f32
