// What products in clusters (kernels/cuda/cluster_rows.cuh) of packed 4-bit codes share: the units of their
// rings, and their outputs.
#pragma once

#include <cstdint>

#include "kernels/cuda/cluster_rows.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/cuda/streaming.cuh"

namespace spikefold::kernels::matmul_f32_f32_s4g {

namespace cluster = cuda::cluster;

// A unit of a ring: the codes of two tiles by two chunks, then the scales and the zero points of their 32
// channels, as they lie in memory: [tile][chunk].
constexpr int kTileBytes = 512, kScaleBytes = 64, kZeroBytes = 16;
constexpr int kScales = cluster::kRowTiles * cluster::kUnitChunks * kTileBytes;
constexpr int kZeros = kScales + cluster::kRowTiles * cluster::kUnitChunks * kScaleBytes;
constexpr int kUnitBytes = kZeros + cluster::kRowTiles * cluster::kUnitChunks * kZeroBytes;

struct TileCodes {
  __device__ TileCodes(const cuda::LinearGroup& linears, int lane) : linears(linears), lane(lane) {}
  __device__ void Go(int linear, int pair, int chunk, int all_chunks) {
    const cuda::Linear& w = linears.linear[linear];
    const int64_t tile = static_cast<int64_t>(pair * cluster::kRowTiles) * all_chunks + chunk;
    codes[0] = static_cast<const char*>(w.w) + tile * kTileBytes + lane * 16;
    codes[1] = codes[0] + static_cast<int64_t>(all_chunks) * kTileBytes;
    // Lanes 0 to 15 copy scales, lanes 16 to 19 zero points, if there are any: half of them of either tile.
    const bool scale = lane < 16;
    const int64_t of = tile + ((scale ? lane / 8 : lane / 2 % 2) == 1 ? all_chunks : 0);
    rest = scale ? reinterpret_cast<const char*>(w.w_scale) + of * kScaleBytes + lane % 8 * 16
                 : reinterpret_cast<const char*>(w.w_zero) + of * kZeroBytes + lane % 2 * 16;
    has_rest = lane < (w.w_zero != nullptr ? 20 : 16);
  }
  // At most kUnitChunks of `chunks`.
  __device__ void Load(uint32_t to, int chunks) {
    const bool scale = lane < 16;
    to += lane * 16;
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      cuda::CopyWeights16(to + 2 * r * kTileBytes, codes[r]);
      if (chunks > 1) cuda::CopyWeights16(to + (2 * r + 1) * kTileBytes, codes[r] + kTileBytes);
      codes[r] += 2 * kTileBytes;
    }
    const bool first = scale ? lane % 8 < 4 : lane % 2 == 0;
    if (has_rest && (chunks > 1 || first)) cuda::CopyWeights16(to + kScales, rest);
    rest += scale ? 2 * kScaleBytes : 2 * kZeroBytes;
  }

  const cuda::LinearGroup& linears;
  int lane;
  bool has_rest;
  const char *codes[cluster::kRowTiles], *rest;
};
static_assert(cluster::kUnitChunks == 2 && kZeros == kScales + 16 * 16);

// Four neighbouring channels of a row of y.
struct ClusterOutput {
  __device__ ClusterOutput(const cuda::SimtParams& p, int linear, int row, int n)
      : linear(linear), row(row), n(n) {
    const cuda::Linear& w = p.linears.linear[linear];
    to = w.y + row * w.n + n;
    channels = row < p.m ? static_cast<int>(min(max(w.n - n, int64_t{0}), int64_t{4})) : 0;
    plain = w.kept_w == nullptr && w.bias == nullptr && p.super[linear].num == 0 &&
            reinterpret_cast<uintptr_t>(to) % 16 == 0;
  }
  __device__ void Finish(const cuda::SimtParams& p, float4 y) const {
    if (plain && channels == 4) {
      *reinterpret_cast<float4*>(to) = y;
      return;
    }
#pragma unroll 1
    for (int c = 0; c < channels; ++c) {
      cuda::simt::Finish<int8_t>(p, linear, row, n + c, c == 0 ? y.x : c == 1 ? y.y : c == 2 ? y.z : y.w);
    }
  }
  float* to;
  int linear, row, n, channels;
  bool plain;
};

// One row or two in clusters on sm_90, x in three digits (matmul_f32_f32_s4g_digits_sm90.cu). FitsDigits():
// there are no more rows, and x has room in shared memory; RunDigits() requires it.
inline constexpr int64_t kDigitRows = 2;
bool FitsDigits(const cuda::SimtParams& params);
absl::Status RunDigits(const cuda::SimtParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
