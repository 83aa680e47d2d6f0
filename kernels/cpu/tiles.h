// Splits an output [m, n] into chunks of row tiles x weight panels for the thread pool.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels {

struct TileGrid {
  int64_t m = 0;            // rows of the output
  int64_t num_panels = 0;   // weight panels
  int64_t panel_bytes = 0;  // packed bytes of one panel
  int64_t panel_ops = 0;    // multiply-adds of one row with one panel
  int64_t row_block =
      48;  // most rows of a chunk: a multiple of a register tile's, few enough for x to stay in L2
};

// Rows [m_begin, m_end) against panels [p_begin, p_end).
using TileBody = absl::FunctionRef<void(int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end)>;

// Runs body over a partition of the grid, each (row, panel) once. Chunks that share weights follow each
// other, so that a block of panels stays in cache while all rows pass over it. The partition depends on the
// pool's size; kernels make results independent of it.
void ForEachTile(ThreadPool& pool, const TileGrid& grid, TileBody body);

}  // namespace spikefold::kernels
