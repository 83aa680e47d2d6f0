// Design: kernels/cuda/cluster_rows.cuh. A block makes its part of x into f16 once, as the right operands of
// mma.sync m16n8k16, under a power of two for 64 columns of a row, and 4-bit codes of many channels pass by.
// A code's bits are a subnormal f16, which tensor cores multiply exactly: five logical operations make eight
// codes. Zero points go through the sums of x. Up to 4 rows x has two f16 parts, columns of the instruction
// that would be empty; more rows have one.
#include <cuda_fp16.h>

#include "formats/base/status.h"
#include "kernels/cuda/cluster_rows.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/streaming.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_f16.cuh"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

namespace cluster = cuda::cluster;

// A step of a ring: the codes of two tiles, then the scales and the zero points of their 32 channels.
constexpr int kTileBytes = 512, kScales = cluster::kRowTiles * kTileBytes, kZeros = kScales + 128;
constexpr int kStepBytes = kZeros + 32;

struct TileCodes {
  __device__ TileCodes(const cuda::SimtParams& p, int lane) : p(p), lane(lane) {}
  __device__ void Go(int pair, int chunk) {
    int64_t index = pair;
    const cuda::Linear& w = p.linears.linear[cuda::simt::LinearAt(p.linears, cluster::kChannels, index)];
    const int64_t tiles = p.k / kTileColumns, last = cuda::CeilDiv(w.n, kTileRows) - 1;
    // A row tile behind the last reads the last again; its sums are not used.
    const int64_t tile = index * cluster::kRowTiles * tiles + chunk;
    const bool two = index * cluster::kRowTiles < last;
    codes = static_cast<const char*>(w.w) + tile * kTileBytes + lane * 16;
    second = two ? static_cast<int>(tiles) * kTileBytes : 0;
    // Lanes 0 to 7 copy scales, lanes 8 and 9 zero points, if there are any.
    const bool scale = lane < 8;
    const int64_t of = tile + (two && (scale ? lane / 4 : lane % 2) == 1 ? tiles : 0);
    rest = scale ? reinterpret_cast<const char*>(w.w_scale) + of * 64 + lane % 4 * 16
                 : reinterpret_cast<const char*>(w.w_zero) + of * 16;
    rest_bytes = lane < (w.w_zero != nullptr ? 10 : 8) ? (scale ? 64 : 16) : 0;
  }
  __device__ void Load(uint32_t to) {
    to += lane * 16;
    cuda::CopyWeights16(to, codes);
    cuda::CopyWeights16(to + kTileBytes, codes + second);
    if (rest_bytes > 0) cuda::CopyWeights16(to + kScales, rest);
    codes += kTileBytes;
    rest += rest_bytes;
  }

  const cuda::SimtParams& p;
  int lane, second, rest_bytes;
  const char *codes, *rest;
};

// x as right operands: up to 4 rows in two parts, row r in columns r and r + 4, or 8 kNumTiles rows in one.
template <int kNumTiles, int kNumParts, int kNumSteps = 4>
struct Rows {
  using Params = cuda::SimtParams;
  using Codes = TileCodes;
  static constexpr int kWarps = 16;
  static constexpr int kTiles = kNumTiles, kColumns = 8 * kTiles, kParts = kNumParts;
  static constexpr int kSteps = kNumSteps, kStepBytes = matmul_f32_f32_s4g::kStepBytes;
  // Of an n8 tile two operands a lane, 16 bytes; behind them what zero points of 8 take from each column.
  static constexpr int kMeta = kTiles * 1024, kChunkBytes = kMeta + kColumns * 4;
  static constexpr int kStaged =
      kTiles == 1 ? 2 : 4;  // chunks of an n8 tile that a warp of Stage has under way

  __device__ static constexpr int Column(int row, int part) { return row + 4 * part; }
  // Channels g and g + 8 of a tile are multiplied as multiples of these.
  __device__ static constexpr float CodeUnit(int half) { return half == 0 ? 0x1p-24f : 0x1p-20f; }
  // Twice a power of two: both at once may be beyond float32.
  __device__ static float Value(float sum, uint32_t largest, int half) {
    return sum * (1 / CodeUnit(half)) * ScaleOf(largest);
  }

  __device__ static void Stage(const Params& p, int first, int chunks, char* shared, uint32_t* largest) {
    // A warp keeps to one n8 tile, so a lane to one row.
    constexpr int kApart = kWarps / kTiles, kAtOnce = kStaged * kApart;
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, t = lane % 4;
    const int warp = static_cast<int>(threadIdx.x) / 32, tile = warp % kTiles;
    const int row = kParts == 1 ? tile * 8 + g : g % 4;
    const float* const from =
        p.x + static_cast<int64_t>(row < p.m ? row : 0) * p.k + first * cluster::kChunk + 4 * t;
    float4 v[kStaged][4];
    const auto load = [&](int chunk0) {
#pragma unroll
      for (int b = 0; b < kStaged; ++b) {
        const int chunk = chunk0 + b * kApart;
        const bool inside = chunk < chunks && row < p.m;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint4 bits = make_uint4(0, 0, 0, 0);
          if (inside) bits = cuda::LoadCached16(from + chunk * cluster::kChunk + 16 * j);
          v[b][j] = make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                                __uint_as_float(bits.w));
        }
      }
    };
    uint32_t most = 0;
#pragma unroll 1
    for (int chunk = warp / kTiles; chunk < chunks; chunk += kAtOnce) {
      load(chunk);
      const auto size = [](float x) { return __float_as_uint(x) & 0x7fffffffu; };
#pragma unroll
      for (int i = 0; i < 4 * kStaged; ++i) {
        const float4 x = v[i / 4][i % 4];
        most = max(most, max(max(size(x.x), size(x.y)), max(size(x.z), size(x.w))));
      }
    }
    most = max(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = max(most, __shfl_xor_sync(0xffffffffu, most, 2));
    if (t == 0) atomicMax(largest + tile * 8 + g, most);
    __syncthreads();
    const float inverse = InverseScaleOf(largest[tile * 8 + g]);
#pragma unroll 1
    for (int chunk = warp / kTiles; chunk < chunks; chunk += kAtOnce) {
      if (chunks > kAtOnce) load(chunk);
#pragma unroll
      for (int b = 0; b < kStaged; ++b) {
        if (chunk + b * kApart < chunks) {
          Keep(v[b], inverse, tile, lane, shared + (chunk + b * kApart) * kChunkBytes);
        }
      }
    }
  }
  // 64 columns of 8 rows as operands. By all lanes.
  __device__ static void Keep(const float4 (&v)[4], float inverse, int tile, int lane, char* to) {
    constexpr uint32_t kOnes[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};
    const bool rest = kParts == 2 && lane >= 16;
    uint32_t x[4][2];
    float sum[4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      x[j][0] = F16(v[j].x * inverse, v[j].y * inverse, rest);
      x[j][1] = F16(v[j].z * inverse, v[j].w * inverse, rest);
      cuda::MmaF16(sum, kOnes, x[j][0], x[j][1]);  // of columns 2t and 2t + 1, as they are multiplied
    }
    uint4* const operands = reinterpret_cast<uint4*>(to) + tile * 64 + lane;
    operands[0] = make_uint4(x[0][0], x[0][1], x[1][0], x[1][1]);
    operands[32] = make_uint4(x[2][0], x[2][1], x[3][0], x[3][1]);
    if (lane < 4) {
      reinterpret_cast<float2*>(to + kMeta + tile * 32)[lane] =
          make_float2(sum[0] * (-8 * CodeUnit(0)), sum[1] * (-8 * CodeUnit(0)));
    }
  }

  // Four codes a lane each of channel g, and of channel g + 8 times 16.
  __device__ static void Operand(uint32_t word, uint32_t (&a)[4]) {
    a[0] = word & 0x000f000fu;
    a[1] = word & 0x00f000f0u;
    a[2] = word >> 8 & 0x000f000fu;
    a[3] = word >> 8 & 0x00f000f0u;
  }
  __device__ static void Multiply(bool zeros, uint32_t step, uint32_t x, int lane,
                                  float (&acc)[cluster::kRowTiles][kTiles][4]) {
    const int g = lane / 4, t = lane % 4;
    uint32_t words[cluster::kRowTiles][4];
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      const uint4 codes = cuda::LoadShared16(step + r * kTileBytes + lane * 16);
      words[r][0] = codes.x, words[r][1] = codes.y, words[r][2] = codes.z, words[r][3] = codes.w;
    }
    // Sums begin with what zero points take from them.
    float begin[cluster::kRowTiles][kTiles][4];
    constexpr float kOfHalf[2] = {1.0f, CodeUnit(1) / CodeUnit(0)};
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
      const float2 eight = cuda::LoadShared8(x + kMeta + c * 32 + t * 8);
#pragma unroll
      for (int i = 0; i < 2 * cluster::kRowTiles; ++i) {
        begin[i / 2][c][i % 2 * 2] = eight.x * kOfHalf[i % 2];
        begin[i / 2][c][i % 2 * 2 + 1] = eight.y * kOfHalf[i % 2];
      }
    }
    if (zeros) {
#pragma unroll
      for (int r = 0; r < cluster::kRowTiles; ++r) {
        const uint32_t both = cuda::LoadShared2(step + kZeros + (r * 8 + g) * 2);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint32_t zero = half == 0 ? both & 0xff : both >> 8;
          const float eighths = (__uint_as_float(0x4b000000u | zero) - 8388608.0f) * 0.125f;
#pragma unroll
          for (int c = 0; c < kTiles; ++c) {
            begin[r][c][2 * half] *= eighths;
            begin[r][c][2 * half + 1] *= eighths;
          }
        }
      }
    }
    float sum[cluster::kRowTiles][kTiles][4];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint4 b[kTiles];
#pragma unroll
      for (int c = 0; c < kTiles; ++c) b[c] = cuda::LoadShared16(x + (c * 64 + pair * 32 + lane) * 16);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t a[cluster::kRowTiles][4];
#pragma unroll
        for (int r = 0; r < cluster::kRowTiles; ++r) Operand(words[r][2 * pair + j], a[r]);
#pragma unroll
        for (int c = 0; c < kTiles; ++c) {
          const uint32_t b0 = j == 0 ? b[c].x : b[c].z, b1 = j == 0 ? b[c].y : b[c].w;
#pragma unroll
          for (int r = 0; r < cluster::kRowTiles; ++r) {
            if (pair + j == 0) {
              cuda::MmaF16(sum[r][c], a[r], b0, b1, begin[r][c]);
            } else {
              cuda::MmaF16(sum[r][c], a[r], b0, b1);
            }
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      const float2 scale = cuda::LoadShared8(step + kScales + (r * 8 + g) * 8);
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          acc[r][c][e] = fmaf(e < 2 ? scale.x : scale.y, sum[r][c][e], acc[r][c][e]);
        }
      }
    }
  }
  __device__ static void Finish(const Params& p, int linear, int64_t row, int64_t n, float sum) {
    cuda::simt::Finish<int8_t>(p, linear, row, n, sum);
  }
  static double Cost(const cluster::Plan& plan, int64_t rows) {
    constexpr double kTrip = 1.0;     // microseconds to memory that others keep busy, and back
    constexpr double kStep = 0.0365;  // a block's share of what memory reads
    const double stage = kTrip * static_cast<double>(cuda::CeilDiv(plan.chunks * kTiles, kWarps * kStaged));
    const double steps = static_cast<double>(plan.pairs) * plan.chunks * plan.turns;
    const double outputs = static_cast<double>(cuda::CeilDiv(plan.pairs * rows, plan.splits * kWarps));
    return stage + steps * kStep + plan.turns * (1.0 + 0.1 * outputs);
  }
};

using Rows4 = Rows<1, 2>;
using Rows8 = Rows<1, 1>;
using Rows16 = Rows<2, 1, 3>;
template <typename Traits>
absl::Status RunRows(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return cluster::Run<Traits>("matmul_f32_f32_s4g", p, stream);
}
// The first rows of p, as many as fit.
int64_t RowsAtOnce(const cuda::SimtParams& p) {
  if (p.m > 8 && cluster::Fits<Rows16>(p)) return std::min<int64_t>(p.m, 16);
  if (p.m > 4 && cluster::Fits<Rows8>(p)) return std::min<int64_t>(p.m, 8);
  return std::min<int64_t>(p.m, 4);
}

}  // namespace

bool FitsHopper(int64_t k) {
  return cluster::Fits<Rows4>({.m = 1, .k = k, .linears = {.count = 1, .linear = {{.n = 1}}}});
}

absl::Status RunHopper(cuda::SimtParams p, const cuda::Stream& stream) {
  while (p.m > 0) {
    cuda::SimtParams part = p;
    part.m = RowsAtOnce(p);
    SF_RETURN_IF_ERROR(part.m <= 4   ? RunRows<Rows4>(part, stream)
                       : part.m <= 8 ? RunRows<Rows8>(part, stream)
                                     : RunRows<Rows16>(part, stream));
    p.m -= part.m;
    p.x += part.m * p.k;
    for (int i = 0; i < p.linears.count; ++i) p.linears.linear[i].y += part.m * p.linears.linear[i].n;
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
