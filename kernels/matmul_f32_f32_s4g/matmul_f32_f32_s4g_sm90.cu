// Design: kernels/cuda/cluster_rows.cuh. A block splits its part of x into bf16 parts once, as the right
// operands of mma.sync m16n8k16, and 4-bit codes of many channels pass by. Up to 4 rows the two parts are
// columns of the instruction; more rows fill the columns and are multiplied twice.
#include "formats/base/status.h"
#include "kernels/cuda/cluster_rows.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_tiles.cuh"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

namespace cluster = cuda::cluster;

// What a lane holds of two tiles: codes, and scale and zero point of one of their 32 channels.
struct TilePair {
  uint4 codes[cluster::kRowTiles];
  float scale;
  uint32_t zero;
};
struct TileCodes {
  __device__ TileCodes(const cuda::SimtParams& p, int pair, int lane, int first) {
    int64_t index = pair;
    const cuda::Linear& w = p.linears.linear[cuda::simt::LinearAt(p.linears, cluster::kChannels, index)];
    const int64_t tiles = p.k / kTileColumns, last = cuda::CeilDiv(w.n, kTileRows) - 1;
    // A row tile behind the last reads the last again; its sums are not used.
    const auto tile = [&](int r) { return min(index * cluster::kRowTiles + r, last) * tiles + first; };
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      codes[r] = static_cast<const uint4*>(w.w) + tile(r) * 32 + lane;
    }
    const int64_t channel = tile(lane / 16) * kTileRows + lane % 16;
    scales = w.w_scale + channel;
    zeros = w.w_zero == nullptr ? nullptr : w.w_zero + channel;
  }
  __device__ void Load(int tile, TilePair& to) const {
    const int channel = tile * static_cast<int>(kTileRows);
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) to.codes[r] = cuda::LoadStreaming16(codes[r] + tile * 32);
    to.scale = __ldg(scales + channel);
    to.zero = zeros != nullptr ? __ldg(zeros + channel) : 8;
  }

  const uint4* codes[cluster::kRowTiles];
  const float* scales;
  const uint8_t* zeros;
};

// The right operand of columns 16 j to 16 j + 15 of a row: those of lane t, 2t, 2t + 1 and 8 further.
__device__ inline void LoadRow(const cuda::SimtParams& p, int row, int column, float2 (&v)[2]) {
  const bool inside = row < p.m;
  const float2* const from =
      reinterpret_cast<const float2*>(p.x + static_cast<int64_t>(inside ? row : 0) * p.k + column);
  v[0] = inside ? from[0] : make_float2(0, 0);
  v[1] = inside ? from[4] : make_float2(0, 0);
}

// x as right operands: up to 4 rows, row r in columns r and r + 4, or kWide.
template <bool kWide, int kNumTiles>
struct Rows {
  using Params = cuda::SimtParams;
  using Codes = TileCodes;
  using Step = TilePair;
  static constexpr int kTiles = kNumTiles, kColumns = 8 * kTiles, kParts = kWide ? 1 : 2;
  static constexpr int kSteps = kTiles > 1 ? 3 : 4;  // what registers hold
  // 16 bytes a lane: both parts of an operand, or the parts of two operands that lie in columns.
  static constexpr int kOperands = kWide ? 4 * kTiles : 2;  // of 512 bytes a chunk
  static constexpr int kChunkBytes = kOperands * 512;

  __device__ static constexpr int Column(int row, int part) { return row + 4 * part; }

  __device__ static void Stage(const Params& p, int first, int chunks, char* shared) {
    constexpr int kBatch = 4;  // operands whose loads are under way
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
    const int count = chunks * kOperands;
    uint4* const to = reinterpret_cast<uint4*>(shared) + lane;
    for (int i0 = warp * kBatch; i0 < count; i0 += warps * kBatch) {
      float2 v[kBatch][kWide ? 1 : 2][2];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (i0 + b >= count) break;
        const int chunk = (i0 + b) / kOperands, of = (i0 + b) % kOperands;
        const int column = (first + chunk) * cluster::kChunk + 2 * t;
        if constexpr (kWide) {
          LoadRow(p, of % kTiles * 8 + g, column + of / kTiles * 16, v[b][0]);
        } else {
          LoadRow(p, g % 4, column + of * 32, v[b][0]);
          LoadRow(p, g % 4, column + of * 32 + 16, v[b][1]);
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (i0 + b >= count) break;
        if constexpr (kWide) {
          const Halves a = Split(v[b][0][0]), c = Split(v[b][0][1]);
          to[(i0 + b) * 32] = make_uint4(a.high, c.high, a.low, c.low);
        } else {
          const auto part = [&](float2 x) { return g < 4 ? Split(x).high : Split(x).low; };
          to[(i0 + b) * 32] =
              make_uint4(part(v[b][0][0]), part(v[b][0][1]), part(v[b][1][0]), part(v[b][1][1]));
        }
      }
    }
  }
  __device__ static void Multiply(const Step& step, const char* x, int lane,
                                  float (&acc)[cluster::kRowTiles][kTiles][4]) {
    const uint4* const operands = reinterpret_cast<const uint4*>(x) + lane;
    float sum[cluster::kRowTiles][kTiles][4] = {};
    // Of row tile r, channels g (half 0) and g + 8 (half 1).
    const auto of_channel = [&](auto value, int r, int half) {
      return __shfl_sync(0xffffffffu, value, r * 16 + half * 8 + lane / 4);
    };
    __nv_bfloat162 zero[cluster::kRowTiles][2];
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      zero[r][0] = ZeroPair(of_channel(step.zero, r, 0));
      zero[r][1] = ZeroPair(of_channel(step.zero, r, 1));
    }
    uint4 both = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t a[cluster::kRowTiles][4];
#pragma unroll
      for (int r = 0; r < cluster::kRowTiles; ++r) Operand(step.codes[r], j, zero[r][0], zero[r][1], a[r]);
      if constexpr (kWide) {
        // Sums that follow each other are others: none waits for the one before.
        uint4 b[kTiles];
#pragma unroll
        for (int c = 0; c < kTiles; ++c) {
          b[c] = operands[(j * kTiles + c) * 32];
#pragma unroll
          for (int r = 0; r < cluster::kRowTiles; ++r) cuda::MmaBf16(sum[r][c], a[r], b[c].x, b[c].y);
        }
#pragma unroll
        for (int c = 0; c < kTiles; ++c) {
#pragma unroll
          for (int r = 0; r < cluster::kRowTiles; ++r) cuda::MmaBf16(sum[r][c], a[r], b[c].z, b[c].w);
        }
      } else {
        if (j % 2 == 0) both = operands[j / 2 * 32];
#pragma unroll
        for (int r = 0; r < cluster::kRowTiles; ++r) {
          cuda::MmaBf16(sum[r][0], a[r], j % 2 == 0 ? both.x : both.z, j % 2 == 0 ? both.y : both.w);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      const float scale[2] = {of_channel(step.scale, r, 0), of_channel(step.scale, r, 1)};
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[r][c][e] = fmaf(scale[e / 2], sum[r][c][e], acc[r][c][e]);
      }
    }
  }
  __device__ static void Finish(const Params& p, int linear, int64_t row, int64_t n, float sum) {
    cuda::simt::Finish<int8_t>(p, linear, row, n, sum);
  }
};

template <bool kWide, int kTiles>
absl::Status RunRows(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return cluster::Run<Rows<kWide, kTiles>>("matmul_f32_f32_s4g", p, stream);
}
// The first rows of p, as many as fit; more than 16 would need more registers than half a multiprocessor has.
int64_t RowsAtOnce(const cuda::SimtParams& p) {
  if (p.m > 8 && cluster::Fits<Rows<true, 2>>(p)) return std::min<int64_t>(p.m, 16);
  if (p.m > 4 && cluster::Fits<Rows<true, 1>>(p)) return std::min<int64_t>(p.m, 8);
  return std::min<int64_t>(p.m, 4);
}

}  // namespace

bool FitsHopper(int64_t k) {
  return cluster::Fits<Rows<false, 1>>({.m = 1, .k = k, .linears = {.count = 1, .linear = {{.n = 1}}}});
}

absl::Status RunHopper(cuda::SimtParams p, const cuda::Stream& stream) {
  while (p.m > 0) {
    cuda::SimtParams part = p;
    part.m = RowsAtOnce(p);
    if (part.m <= 4) {
      SF_RETURN_IF_ERROR((RunRows<false, 1>(part, stream)));
    } else if (part.m <= 8) {
      SF_RETURN_IF_ERROR((RunRows<true, 1>(part, stream)));
    } else {
      SF_RETURN_IF_ERROR((RunRows<true, 2>(part, stream)));
    }
    p.m -= part.m;
    p.x += part.m * p.k;
    for (int i = 0; i < p.linears.count; ++i) p.linears.linear[i].y += part.m * p.linears.linear[i].n;
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
