#include <algorithm>

#include "kernels/cuda/digit_rows.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_tiles.cuh"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

constexpr int kRowsOfTile = static_cast<int>(kTileRows);
constexpr int kDepth = 4;  // tiles of codes under way: 64 bytes a lane hide the way to memory
// What a lane holds of a tile: codes, and the scales and zero points of its channels g and g + 8.
struct Weights {
  uint4 codes;
  float scale0, scale1;
  uint32_t zero0, zero1;
};

// How x reaches the right operands. kPaired: up to 4 rows, row r in columns r (its high halves) and r + 4
// (its low halves). kWide: 8 rows an operand.
enum class Rows { kPaired, kWide };

// Warps of a block share out K. Few registers a thread let several blocks share a multiprocessor: one loads
// while another adds up.
template <Rows kForm, int kTiles>
inline constexpr int kWarps = kTiles >= 2 ? 8 : 16;

template <Rows kForm, int kTiles, int kRowTiles>
__global__ void __launch_bounds__(kWarps<kForm, kTiles>* cuda::kWarp)
    matmul_f32_f32_s4g_sm80(const __grid_constant__ cuda::SimtParams p) {
  constexpr bool kPaired = kForm != Rows::kWide;
  constexpr int kBlockWarps = kWarps<kForm, kTiles>, kThreads = kBlockWarps * cuda::kWarp;
  constexpr int kChannels = kTileRows * kRowTiles, kColumns = 8 * kTiles, kRows = kPaired ? 4 : kColumns;
  extern __shared__ float partial[];  // [kBlockWarps][kColumns][kChannels]
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
    scales[r] = w.w_scale + at * kTileRows + 2 * g;
    zeros[r] = has_zeros ? w.w_zero + at * kTileRows + 2 * g : nullptr;
  }
  const auto load = [&](int tile, Weights(&to)[kRowTiles]) {  // tile is below end
    const int step = tile - begin;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      to[r].codes = cuda::LoadStreaming16(codes[r] + step * 32);
      const float2 both = *reinterpret_cast<const float2*>(scales[r] + step * kRowsOfTile);
      to[r].scale0 = both.x;
      to[r].scale1 = both.y;
      to[r].zero0 = has_zeros ? zeros[r][step * kRowsOfTile] : 8;
      to[r].zero1 = has_zeros ? zeros[r][step * kRowsOfTile + 1] : 8;
    }
  };
  float acc[kRowTiles][kTiles][4] = {};
  const auto multiply = [&](int tile, const Weights(&weights)[kRowTiles]) {
    float sum[kRowTiles][kTiles][4] = {};
    __nv_bfloat162 zero0[kRowTiles], zero1[kRowTiles];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      zero0[r] = ZeroPair(weights[r].zero0);
      zero1[r] = ZeroPair(weights[r].zero1);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Halves x[kTiles][2];  // columns 4t, 4t + 1 of the 16, and those 2 further
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
        const int64_t m = m0 + (kPaired ? g % 4 : c * 8 + g);
        const float* from = p.x + m * p.k + tile * kTileColumns + j * 16 + t * 4;
        const float4 v = m < p.m ? *reinterpret_cast<const float4*>(from) : make_float4(0, 0, 0, 0);
        x[c][0] = Split(make_float2(v.x, v.y));
        x[c][1] = Split(make_float2(v.z, v.w));
      }
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        uint32_t a[4];
        Operand(weights[r].codes, j, zero0[r], zero1[r], a);
#pragma unroll
        for (int c = 0; c < kTiles; ++c) {
          if constexpr (kPaired) {
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
  return cuda::Launch(
      "matmul_f32_f32_s4g", matmul_f32_f32_s4g_sm80<kForm, kTiles, kRowTiles>,
      {.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(cuda::CeilDiv(p.m, kBlockRows))),
       .block = dim3(kWarps<kForm, kTiles> * cuda::kWarp),
       .shared_bytes = int64_t{4} * kWarps<kForm, kTiles> * kColumns * kChannels,
       .overlaps = true},
      stream, p);
}

// For few rows in digits. A word's nibbles are four columns of channel g and the same four of channel g + 8.
struct TileColumns {  // of lane t's word j: columns 4t, 4t + 2, 4t + 1, 4t + 3 of the 16 from 16 j on
  __device__ static void Load(const float* row, int first, int64_t, int word, float (&v)[4]) {
    const float4 x = *reinterpret_cast<const float4*>(row + first + word % 4 * 16 + word / 4 * 4);
    v[0] = x.x, v[1] = x.z, v[2] = x.y, v[3] = x.w;
  }
};
struct TileCodes {
  static constexpr int kChunks = 1;
  using Step = Weights;
  __device__ TileCodes(const cuda::SimtParams& p, int tile, int warp, int lane) {
    int64_t index = tile;
    const cuda::Linear& w = p.linears.linear[cuda::simt::LinearAt(p.linears, kTileRows, index)];
    const int64_t at = index * (p.k / kTileColumns) + warp;
    codes = static_cast<const uint4*>(w.w) + at * 32 + lane;
    scales = w.w_scale + at * kTileRows + lane / 4 * 2;
    zeros = w.w_zero == nullptr ? nullptr : w.w_zero + at * kTileRows + lane / 4 * 2;
  }
  __device__ void Load(int step, Step& to) const {
    const int tile = step * cuda::stream::kWarps, scale = tile * kRowsOfTile;
    to.codes = cuda::LoadStreaming16(codes + tile * 32);
    const float2 both = __ldg(reinterpret_cast<const float2*>(scales + scale));
    to.scale0 = both.x;
    to.scale1 = both.y;
    to.zero0 = zeros != nullptr ? __ldg(zeros + scale) : 8;
    to.zero1 = zeros != nullptr ? __ldg(zeros + scale + 1) : 8;
  }

  const uint4* codes;
  const float* scales;
  const uint8_t* zeros;
};
struct FewRows : cuda::digits::Digits<TileColumns, true> {
  using Codes = TileCodes;
  static constexpr int kSteps = 6, kBlocks = 2;
  __device__ static void Add(const Weights& c, int, const uint4& x, const float4& meta, float (&acc)[4]) {
    constexpr uint32_t kLow = 0x0f0f0f0f;
    int32_t sum[4] = {};
    const auto multiply = [&](uint32_t first, uint32_t second, uint32_t x0, uint32_t x1) {
      const uint32_t a[4] = {first & kLow, first >> 4 & kLow, second & kLow, second >> 4 & kLow};
      cuda::MmaS8(sum, a, x0, x1);
    };
    multiply(c.codes.x, c.codes.y, x.x, x.y);
    multiply(c.codes.z, c.codes.w, x.z, x.w);
    const int digits[2] = {__float_as_int(meta.z), __float_as_int(meta.w)};
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int zero = static_cast<int>(e < 2 ? c.zero0 : c.zero1);
      const float scale = (e < 2 ? c.scale0 : c.scale1) * (e % 2 == 0 ? meta.x : meta.y);
      acc[e] = fmaf(static_cast<float>(sum[e] - zero * digits[e % 2]), scale, acc[e]);
    }
  }
};

}  // namespace

absl::Status RunCuda(const cuda::SimtParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  if (cuda::stream::Fits<FewRows>(p)) {
    return cuda::stream::Run<FewRows>("matmul_f32_f32_s4g", p, stream);
  }
  if (p.m <= 4) return LaunchTiles<Rows::kPaired, 1, 1>(p, stream);
  if (p.m <= 8) return LaunchTiles<Rows::kWide, 1, 1>(p, stream);
  if (p.m <= 16) return LaunchTiles<Rows::kWide, 2, 1>(p, stream);
  return LaunchTiles<Rows::kWide, 4, 2>(p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
