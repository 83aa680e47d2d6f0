#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_u4h {
namespace {

constexpr int kOffset = 8;  // stored codes and zero points are 0 to 15

int64_t Tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

}  // namespace

std::vector<uint8_t> Pack(const PackParams& p, ThreadPool* pool) {
  const int64_t row_tiles = Tiles(p.n, kTileRows), groups = p.k / p.group;
  std::vector<uint8_t> out(static_cast<size_t>(row_tiles * Tiles(p.k, kTileColumns) * kTileBytes), 0);
  const auto pack_rows = [&](int64_t begin, int64_t end) {
    for (int64_t n = begin * kTileRows; n < std::min(end * kTileRows, p.n); ++n) {
      for (int64_t k = 0; k < p.k; ++k) {
        uint8_t* const tile = out.data() + (k / kTileColumns * row_tiles + n / kTileRows) * kTileBytes;
        const Place place = PlaceOf(n % kTileRows, k % kTileColumns);
        const int code = p.codes[static_cast<size_t>(n * p.k + k)] + kOffset;
        tile[place.code] = static_cast<uint8_t>(tile[place.code] | code << place.shift);
        if (k % kFactorColumns != 0) continue;
        const auto group = static_cast<size_t>(n * groups + k / p.group);
        const int zero = kOffset + (p.zeros.empty() ? 0 : p.zeros[group]);
        tile[place.factor] = p.factors[group];
        tile[place.factor + 1] = static_cast<uint8_t>(p.factors[group] * zero);
      }
    }
  };
  if (pool != nullptr) {
    pool->ParallelFor(row_tiles, 1, pack_rows);
  } else {
    pack_rows(0, row_tiles);
  }
  return out;
}

int CodeAt(absl::Span<const uint8_t> packed, int64_t n, int64_t row, int64_t column) {
  const uint8_t* const tile =
      packed.data() + (column / kTileColumns * Tiles(n, kTileRows) + row / kTileRows) * kTileBytes;
  const Place place = PlaceOf(row % kTileRows, column % kTileColumns);
  return tile[place.factor] * (tile[place.code] >> place.shift & 0xf) - tile[place.factor + 1];
}

}  // namespace spikefold::kernels::matmul_f32_s8r_u4h
