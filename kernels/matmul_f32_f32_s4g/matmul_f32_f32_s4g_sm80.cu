#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

constexpr int kRowsOfTile = static_cast<int>(kTileRows);
constexpr int kDepth = 4;  // tiles of codes under way: 64 bytes a lane hide the way to memory
constexpr uint32_t kBf16Base = 0x43004300;  // 128 in both halves: bf16 has 7 bits behind the point

__device__ uint32_t Bits(__nv_bfloat162 v) { return *reinterpret_cast<const uint32_t*>(&v); }
__device__ __nv_bfloat162 Pair(uint32_t bits) { return *reinterpret_cast<const __nv_bfloat162*>(&bits); }

// x as two bf16 values: the nearest one, and the nearest one of what it leaves.
struct Halves {
  uint32_t high, low;
};
__device__ Halves Split(float2 x) {
  const __nv_bfloat162 high = __floats2bfloat162_rn(x.x, x.y);
  const float2 rounded = __bfloat1622float2(high);
  return {Bits(high), Bits(__floats2bfloat162_rn(x.x - rounded.x, x.y - rounded.y))};
}

// What a lane holds of a tile: codes, and the scales and zero points of its channels g and g + 8.
struct Weights {
  uint4 codes;
  float scale0, scale1;
  uint32_t zero0, zero1;
};

// How x reaches the right operands. kStaged and kPaired: up to 4 rows, row r in columns r (its high halves)
// and r + 4 (its low halves); kStaged splits all of x once, in shared memory. kWide: 8 rows an operand.
enum class Rows { kStaged, kPaired, kWide };

// Warps of a block share out K. Few registers a thread let several blocks share a multiprocessor: one loads
// while another adds up.
template <Rows kForm, int kTiles>
inline constexpr int kWarps = kForm == Rows::kStaged || kTiles >= 2 ? 8 : 16;

template <Rows kForm, int kTiles, int kRowTiles>
__global__ void __launch_bounds__(kWarps<kForm, kTiles>* cuda::kWarp,
                                  kForm == Rows::kStaged ? 4 - kRowTiles : 1)
    matmul_f32_f32_s4g_sm80(const __grid_constant__ cuda::SimtParams p) {
  constexpr bool kPaired = kForm != Rows::kWide;
  constexpr int kBlockWarps = kWarps<kForm, kTiles>, kThreads = kBlockWarps * cuda::kWarp;
  constexpr int kChannels = kTileRows * kRowTiles, kColumns = 8 * kTiles, kRows = kPaired ? 4 : kColumns;
  extern __shared__ float partial[];  // [kBlockWarps][kColumns][kChannels], then x if staged
  int64_t index = blockIdx.x;
  const int which = cuda::simt::LinearAt(p.linears, kChannels, index);
  const cuda::Linear& w = p.linears.linear[which];
  const int64_t n0 = index * kChannels, m0 = static_cast<int64_t>(blockIdx.y) * kRows;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4, t = lane % 4;
  const int tiles = static_cast<int>(p.k / kTileColumns);
  const int begin = tiles * warp / kBlockWarps, end = tiles * (warp + 1) / kBlockWarps;
  // Where this lane's codes, scales and zero points of the warp's first tile lie; those of the next are
  // constants further. A row tile behind the last reads the last again; its sums are not used.
  const int64_t row_tiles = cuda::CeilDiv(w.n, kTileRows), row_tile0 = n0 / kTileRows;
  const uint4* codes[kRowTiles];
  const float* scales[kRowTiles];
  const uint8_t* zeros[kRowTiles];
  const bool has_zeros = w.w_zero != nullptr;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    const int64_t at = min(row_tile0 + r, row_tiles - 1) * tiles + begin;
    codes[r] = static_cast<const uint4*>(w.w) + at * 32 + lane;
    scales[r] = w.w_scale + at * kTileRows + g;
    zeros[r] = has_zeros ? w.w_zero + at * kTileRows + g : nullptr;
  }
  const auto load = [&](int tile, Weights(&to)[kRowTiles]) {  // tile is below end
    const int step = tile - begin;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      to[r].codes = cuda::LoadStreaming16(codes[r] + step * 32);
      to[r].scale0 = scales[r][step * kRowsOfTile];
      to[r].scale1 = scales[r][step * kRowsOfTile + 8];
      to[r].zero0 = has_zeros ? zeros[r][step * kRowsOfTile] : 8;
      to[r].zero1 = has_zeros ? zeros[r][step * kRowsOfTile + 8] : 8;
    }
  };
  // Staged: bf16 pairs of x, high halves of all rows, then low ones; and the row of them that is this lane's.
  uint32_t* const x_halves = reinterpret_cast<uint32_t*>(partial + kBlockWarps * kColumns * kChannels);
  const int pairs = static_cast<int>(p.k) / 2, staged_rows = static_cast<int>(min(p.m - m0, int64_t{4}));
  const uint32_t* const staged = x_halves + (g / 4 * staged_rows + g % 4) * pairs;
  float acc[kRowTiles][kTiles][4] = {};
  const auto multiply = [&](int tile, const Weights(&weights)[kRowTiles]) {
    float sum[kRowTiles][kTiles][4] = {};
    __nv_bfloat162 zero0[kRowTiles], zero1[kRowTiles];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      zero0[r] = Pair(kBf16Base | weights[r].zero0 | weights[r].zero0 << 16);
      zero1[r] = Pair(kBf16Base | weights[r].zero1 | weights[r].zero1 << 16);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Halves x[kTiles][2];      // columns 2t, 2t + 1 of the 16, and those 8 further
      uint32_t b0 = 0, b1 = 0;  // of staged rows: this lane's half
      if constexpr (kForm == Rows::kStaged) {
        if (g % 4 < staged_rows) {
          const uint32_t* from = staged + tile * (kTileColumns / 2) + j * 8 + t;
          b0 = from[0];
          b1 = from[4];
        }
      }
#pragma unroll
      for (int c = 0; c < kTiles && kForm != Rows::kStaged; ++c) {
        const int64_t m = m0 + (kPaired ? g % 4 : c * 8 + g);
        const float* from = p.x + m * p.k + tile * kTileColumns + j * 16 + t * 2;
        const bool inside = m < p.m;
        x[c][0] = Split(inside ? *reinterpret_cast<const float2*>(from) : make_float2(0, 0));
        x[c][1] = Split(inside ? *reinterpret_cast<const float2*>(from + 8) : make_float2(0, 0));
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        const uint4& q = weights[r].codes;
        const uint32_t word = j == 0 ? q.x : j == 1 ? q.y : j == 2 ? q.z : q.w;
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const __nv_bfloat162 code = Pair((word >> (4 * i) & 0x000f000f) | kBf16Base);
          a[i] = Bits(__hsub2(code, i % 2 == 0 ? zero0[r] : zero1[r]));
        }
#pragma unroll
        for (int c = 0; c < kTiles; ++c) {
          if constexpr (kForm == Rows::kStaged) {
            cuda::MmaBf16(sum[r][c], a, b0, b1);
          } else if constexpr (kPaired) {
            cuda::MmaBf16(sum[r][c], a, g < 4 ? x[c][0].high : x[c][0].low,
                          g < 4 ? x[c][1].high : x[c][1].low);
          } else {
            cuda::MmaBf16(sum[r][c], a, x[c][0].high, x[c][1].high);
            cuda::MmaBf16(sum[r][c], a, x[c][0].low, x[c][1].low);
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float scale = e < 2 ? weights[r].scale0 : weights[r].scale1;
          acc[r][c][e] = fmaf(scale, sum[r][c][e], acc[r][c][e]);
        }
      }
    }
  };

  Weights ring[kDepth][kRowTiles];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    if (begin + d < end) load(begin + d, ring[d]);
  }
  cuda::LetNextStart();
  cuda::WaitForInputs();  // the weights do not depend on the kernel before
  if constexpr (kForm == Rows::kStaged) {
    for (int i = static_cast<int>(threadIdx.x); i < staged_rows * pairs; i += kThreads) {
      const int row = i / pairs, pair = i % pairs;
      const Halves halves = Split(reinterpret_cast<const float2*>(p.x + (m0 + row) * p.k)[pair]);
      x_halves[row * pairs + pair] = halves.high;
      x_halves[(staged_rows + row) * pairs + pair] = halves.low;
    }
    __syncthreads();
  }
  for (int tile = begin; tile < end; tile += kDepth) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (tile + d < end) multiply(tile + d, ring[d]);
      if (tile + d + kDepth < end) load(tile + d + kDepth, ring[d]);
    }
  }

#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = c * 8 + t * 2 + e % 2, channel = r * 16 + g + e / 2 * 8;
        partial[(warp * kColumns + column) * kChannels + channel] = acc[r][c][e];
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChannels; i += kThreads) {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < kBlockWarps; ++v) {
      sum += partial[v * kColumns * kChannels + i];
      if constexpr (kPaired) sum += partial[v * kColumns * kChannels + 4 * kChannels + i];
    }
    const int64_t m = m0 + i / kChannels, n = n0 + i % kChannels;
    if (m < p.m && n < w.n) cuda::simt::Finish<int8_t>(p, which, m, n, sum);
  }
}

template <Rows kForm, int kTiles, int kRowTiles>
absl::Status LaunchTiles(const cuda::SimtParams& p, const cuda::Stream& stream) {
  constexpr int64_t kChannels = kTileRows * kRowTiles, kColumns = 8 * kTiles;
  constexpr int64_t kBlockRows = kForm == Rows::kWide ? kColumns : 4;
  int64_t blocks = 0;
  for (int i = 0; i < p.linears.count; ++i) blocks += cuda::CeilDiv(p.linears.linear[i].n, kChannels);
  const int64_t staged = kForm == Rows::kStaged ? std::min(p.m, kBlockRows) * p.k : 0;
  return cuda::Launch(
      "matmul_f32_f32_s4g", matmul_f32_f32_s4g_sm80<kForm, kTiles, kRowTiles>,
      {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(cuda::CeilDiv(p.m, kBlockRows))),
       .block = dim3(kWarps<kForm, kTiles> * cuda::kWarp),
       .shared_bytes = 4 * (kWarps<kForm, kTiles> * kColumns * kChannels + staged),
       .overlaps = true},
      stream, p);
}

}  // namespace

absl::Status RunCuda(const cuda::SimtParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  int64_t channels = 0;
  for (int i = 0; i < p.linears.count; ++i) channels += p.linears.linear[i].n;
  // Two tiles a block split and read x half as often; one makes more blocks, which counts more where W is
  // small.
  constexpr int64_t kManyChannels = int64_t{132} * 4 * 2 * kTileRows;
  constexpr int64_t kStagedBytes = 64 << 10;  // leaves room for three blocks on a multiprocessor of sm_90
  if (p.m <= 4 && 4 * p.m * p.k <= kStagedBytes) {
    return channels >= kManyChannels ? LaunchTiles<Rows::kStaged, 1, 2>(p, stream)
                                     : LaunchTiles<Rows::kStaged, 1, 1>(p, stream);
  }
  if (p.m <= 4) return LaunchTiles<Rows::kPaired, 1, 1>(p, stream);
  if (p.m <= 8) return LaunchTiles<Rows::kWide, 1, 1>(p, stream);
  if (p.m <= 16) return LaunchTiles<Rows::kWide, 2, 1>(p, stream);
  return LaunchTiles<Rows::kWide, 4, 2>(p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
