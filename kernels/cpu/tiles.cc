#include "kernels/cpu/tiles.h"

#include <algorithm>

namespace spikefold::kernels {
namespace {

constexpr int64_t kChunkOps = int64_t{4} << 20;     // multiply-adds: about 20 us, long against a hand-over
constexpr int64_t kChunkBytes = int64_t{48} << 10;  // weight bytes: about 3 us of one core's share of memory
constexpr int64_t kPanelBlockBytes = int64_t{512} << 10;  // half of a 1 MiB L2
constexpr int64_t kChunksPerThread = 4;  // so that a thread which loses its core can be helped out

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void ForEachTile(ThreadPool& pool, const TileGrid& grid, TileBody body) {
  const int64_t row_blocks = CeilDiv(grid.m, grid.row_block);
  const int64_t rows = CeilDiv(grid.m, row_blocks);
  // Small m is bound by weight bytes, large m by multiply-adds: a chunk is worth its hand-over by either.
  const int64_t least = std::clamp<int64_t>(
      std::min(kChunkOps / std::max<int64_t>(1, rows * grid.panel_ops), kChunkBytes / grid.panel_bytes), 1,
      grid.num_panels);
  const int64_t even = CeilDiv(grid.num_panels * row_blocks, kChunksPerThread * pool.num_threads());
  const int64_t most = std::max<int64_t>(1, kPanelBlockBytes / grid.panel_bytes);
  const int64_t per_chunk = std::clamp<int64_t>(std::min(even, most), least, grid.num_panels);
  const int64_t panel_blocks = CeilDiv(grid.num_panels, per_chunk);
  pool.ParallelFor(panel_blocks * row_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t p = chunk / row_blocks * per_chunk, m = chunk % row_blocks * rows;
      if (m >= grid.m) continue;
      body(m, std::min(m + rows, grid.m), p, std::min(p + per_chunk, grid.num_panels));
    }
  });
}

}  // namespace spikefold::kernels
