#include <algorithm>
#include <cmath>

#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

constexpr int64_t kPairRows = 2 * kTileRows;
constexpr int kOffset = 8;  // stored codes and zero points are 0 to 15

// Nibbles of one lane's four words: `at(row, column)` is the stored code within the tile.
template <typename At>
void PackLane(int lane, At at, uint32_t* words) {
  const int g = lane / 4, t = lane % 4;
  for (int j = 0; j < 4; ++j) {
    words[j] = 0;
    for (int i = 0; i < 8; ++i) {
      const int row = g + i / 2 % 2 * 8, column = 16 * j + 4 * t + i % 2 + i / 4 * 2;
      words[j] |= at(row, column) << (4 * (i / 2 + 4 * (i % 2)));
    }
  }
}

// Of a channel's scales. One that is not finite leaves what it multiplies so.
float UnitOf(absl::Span<const float> scales) {
  constexpr int kBits = 9, kLeast = -100, kMost = 126;
  float largest = 0;
  for (const float scale : scales) largest = std::max(largest, std::abs(scale));
  if (largest == 0 || !std::isfinite(largest)) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);  // below 2^exponent
  return std::ldexp(1.0f, std::clamp(exponent + kBits, kLeast, kMost));
}

}  // namespace

Packed Pack(const PackParams& p, ThreadPool* pool) {
  const int64_t row_tiles = (p.n + kPairRows - 1) / kPairRows * 2, tiles = p.k / kTileColumns;
  const int64_t groups = p.k / p.group;
  Packed out;
  out.codes.resize(static_cast<size_t>(row_tiles * tiles * 32 * 4));
  out.scales.resize(static_cast<size_t>(row_tiles * tiles * kTileRows));
  out.units.resize(static_cast<size_t>(row_tiles * kTileRows), 1.0f);
  if (!p.zeros.empty()) out.zeros.resize(out.scales.size(), kOffset);
  const auto pack_tile = [&](int64_t r, int64_t c) {
    const int64_t tile = r * tiles + c;
    const auto at = [&](int row, int column) -> uint32_t {
      const int64_t channel = r * kTileRows + row;
      if (channel >= p.n) return kOffset;
      return static_cast<uint32_t>(p.codes[static_cast<size_t>(channel * p.k + c * kTileColumns + column)] +
                                   kOffset);
    };
    for (int lane = 0; lane < 32; ++lane) PackLane(lane, at, out.codes.data() + (tile * 32 + lane) * 4);
    for (int64_t row = 0; row < kTileRows && r * kTileRows + row < p.n; ++row) {
      const auto from = static_cast<size_t>((r * kTileRows + row) * groups + c * kTileColumns / p.group);
      const auto to = static_cast<size_t>(tile * kTileRows + row % 8 * 2 + row / 8);
      out.scales[to] = p.scales[from];
      if (!p.zeros.empty()) out.zeros[to] = static_cast<uint8_t>(p.zeros[from] + kOffset);
    }
  };
  const auto pack_rows = [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t c = 0; c < tiles; ++c) pack_tile(r, c);
      for (int64_t n = r * kTileRows; n < std::min(p.n, (r + 1) * kTileRows); ++n) {
        out.units[static_cast<size_t>(n)] =
            UnitOf(p.scales.subspan(static_cast<size_t>(n * groups), static_cast<size_t>(groups)));
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

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
