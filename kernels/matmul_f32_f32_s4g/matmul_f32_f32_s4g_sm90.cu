// Design: kernels/cuda/cluster_rows.cuh. A block makes its part of x into f16 once, as the right operands of
// mma.sync m16n8k16, under a power of two for each row, and 4-bit codes of many channels pass by.
// A code's bits are a subnormal f16, which tensor cores multiply exactly: five logical operations make eight
// codes. Zero points go through the sums of x. Up to 4 rows x has two f16 parts, columns of the instruction
// that would be empty; more rows have one.
#include <cuda_fp16.h>

#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/half_units.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/streaming.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_units.cuh"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

using cuda::half::F16;
using cuda::half::InverseScaleOf;
using cuda::half::LargerSize;
using cuda::half::ScaleOf;

// As measured on an H200 with 13 shapes, from 1536 x 576 to 57344 x 8192, K shared out in every way: what is
// chosen takes 0.6 to 1.0 % longer than the fastest on average, and 4.4 % at most. kCosts8: up to 8 rows.
constexpr cluster::Costs kCosts8 = {
    .step = 0.025, .two_stages = 1.15, .x = 0.03, .exchange = 0.1, .of_split = 0.07, .stage = 0.03};
constexpr cluster::Costs kCosts16 = {
    .step = 0.027, .two_stages = 1.06, .x = 0.032, .exchange = 0.1, .of_split = 0.05, .of_pair = 0.09};

// x as right operands: up to 4 rows in two parts, row r in columns r and r + 4, or 8 kNumTiles rows in one.
// kStaged: chunks of an n8 tile that a warp reads at once.
template <int kNumTiles, int kNumParts, int kNumWarps, int kStaged>
struct Rows {
  using Params = cuda::SimtParams;
  using Codes = TileCodes;
  using Output = ClusterOutput;
  static constexpr int kWarps = kNumWarps;
  static constexpr int kRegisters = kNumTiles == 1 ? 112 : 168;  // 22,528 are left; of 16 rows 1,024
  static constexpr int kTiles = kNumTiles, kSums = 4, kColumns = 8 * kTiles, kParts = kNumParts;
  static constexpr int kUnitBytes = matmul_f32_f32_s4g::kUnitBytes;
  // Of an n8 tile two operands a lane, 16 bytes; behind them what zero points of 8 take from each pair of
  // columns: from both, and from both as channels g + 8 are multiplied.
  static constexpr int kMeta = kTiles * 1024, kChunkBytes = kMeta + kColumns * 8;
  static constexpr int kApart = kWarps / kTiles;  // warps that read x of the same rows
  static constexpr int kLargestBytes = kColumns * (1 + kApart) * 4;
  static_assert(kApart % 2 == 0 && kWarps % kTiles == 0);
  // Channels g and g + 8 of a tile are multiplied as multiples of these.
  __device__ static constexpr float CodeUnit(int half) { return half == 0 ? 0x1p-24f : 0x1p-20f; }
  // An item is an n8 tile of a row tile; of two parts it is both row tiles, the second one's in lanes t of 2
  // and 3.
  __device__ static void Sums(const float (&acc)[cluster::kRowTiles][kTiles][4], const uint32_t* largest,
                              int lane, float4 (&sum)[cluster::kItems<Rows>]) {
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
      const uint2 sizes = *reinterpret_cast<const uint2*>(largest + c * 8 + lane % 4 * 2);
      const float by[2] = {ScaleOf(sizes.x), ScaleOf(sizes.y)};
      float4 of[cluster::kRowTiles];
#pragma unroll
      for (int r = 0; r < cluster::kRowTiles; ++r) {
        const float(&a)[4] = acc[r][c];
        // Twice a power of two: both at once may be beyond float32.
        of[r] = make_float4(a[0] * (1 / CodeUnit(0)) * by[0], a[1] * (1 / CodeUnit(0)) * by[1],
                            a[2] * (1 / CodeUnit(1)) * by[0], a[3] * (1 / CodeUnit(1)) * by[1]);
      }
      if constexpr (kParts == 1) {
#pragma unroll
        for (int r = 0; r < cluster::kRowTiles; ++r) sum[r * kTiles + c] = of[r];
      } else {
        const bool second = lane & 2;
        const float4 give = second ? of[0] : of[1], keep = second ? of[1] : of[0];
        sum[0] = make_float4(keep.x + __shfl_xor_sync(0xffffffffu, give.x, 2),
                             keep.y + __shfl_xor_sync(0xffffffffu, give.y, 2),
                             keep.z + __shfl_xor_sync(0xffffffffu, give.z, 2),
                             keep.w + __shfl_xor_sync(0xffffffffu, give.w, 2));
      }
    }
  }
  __device__ static void Place(int item, int lane, int& row, int& channel) {
    const int t = lane % 4, j = lane / 4 % 4;
    row = (kParts == 1 ? item % kTiles * 8 + 2 * t : t % 2 * 2) + j % 2;
    channel = (kParts == 1 ? item / kTiles : t / 2) * 16 + j / 2 * 8 + lane / 16 * 4;
  }

  // What a warp makes of x: chunks of one n8 tile, so a lane has to do with one row.
  struct X {
    __device__ X(const Params& p, int first, int chunks)
        : lane(static_cast<int>(threadIdx.x % 32)), warp(static_cast<int>(threadIdx.x / 32)), chunks(chunks) {
      const int row_of_tile = kParts == 1 ? lane / 4 : lane / 4 % 4;
      tile = warp % kTiles;
      begin = warp / kTiles;
      // Beyond the last row the first one stands in for it: nobody reads the sums of its columns.
      const int row = tile * 8 + row_of_tile;
      from = p.x + (row < p.m ? row : 0) * p.k + first * cluster::kChunk + lane % 4 * 4;
    }
    // Starts to read the first chunks.
    __device__ void Load() { Load(begin); }
    __device__ void Load(int chunk0) {
#pragma unroll
      for (int b = 0; b < kStaged; ++b) {
        const int chunk = chunk0 + b * kApart;
        if (chunk >= chunks) break;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint4 bits = cuda::LoadCached16(from + chunk * cluster::kChunk + 16 * j);
          v[b][j] = make_float4(__uint_as_float(bits.x), __uint_as_float(bits.y), __uint_as_float(bits.z),
                                __uint_as_float(bits.w));
        }
      }
    }
    // By all threads of a block.
    __device__ void Keep(char* shared, uint32_t* largest) {
      const int column = tile * 8 + lane / 4;
      float size = 0;
#pragma unroll 1
      for (int chunk = begin; chunk < chunks; chunk += kAtOnce) {
        if (chunk > begin) Load(chunk);
#pragma unroll
        for (int b = 0; b < kStaged; ++b) {
          if (chunk + b * kApart >= chunks) break;
#pragma unroll
          for (const float4& x : v[b]) {
            size = LargerSize(LargerSize(LargerSize(LargerSize(size, x.x), x.y), x.z), x.w);
          }
        }
      }
      uint32_t most = __float_as_uint(size);
      most = max(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = max(most, __shfl_xor_sync(0xffffffffu, most, 2));
      uint32_t* const of_warps = largest + kColumns + column * kApart;
      if (lane % 4 == 0) of_warps[warp / kTiles] = most;
      __syncthreads();
      most = 0;
#pragma unroll
      for (int i = 0; i < kApart; i += 2) {
        const uint2 bits = *reinterpret_cast<const uint2*>(of_warps + i);
        most = max(most, max(bits.x, bits.y));
      }
      if (lane % 4 == 0 && warp < kTiles) largest[column] = most;
      const float inverse = InverseScaleOf(most);
#pragma unroll 1
      for (int chunk = begin; chunk < chunks; chunk += kAtOnce) {
        if (chunks > kAtOnce) Load(chunk);
#pragma unroll
        for (int b = 0; b < kStaged; ++b) {
          if (chunk + b * kApart >= chunks) break;
          Keep(v[b], inverse, shared + (chunk + b * kApart) * kChunkBytes);
        }
      }
    }
    // 64 columns of 8 rows as operands. By all lanes.
    __device__ void Keep(const float4 (&v)[4], float inverse, char* to) const {
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
        constexpr float kBy[2] = {-8 * CodeUnit(0), -8 * CodeUnit(1)};
        reinterpret_cast<float4*>(to + kMeta + tile * 64)[lane] =
            make_float4(sum[0] * kBy[0], sum[1] * kBy[0], sum[0] * kBy[1], sum[1] * kBy[1]);
      }
    }

    static constexpr int kAtOnce = kStaged * kApart;
    int lane, warp, chunks, tile, begin;
    const float* from;
    float4 v[kStaged][4];
  };

  // Four codes a lane each of channel g, and of channel g + 8 times 16.
  __device__ static void Operand(uint32_t word, uint32_t (&a)[4]) {
    a[0] = word & 0x000f000fu;
    a[1] = word & 0x00f000f0u;
    a[2] = word >> 8 & 0x000f000fu;
    a[3] = word >> 8 & 0x00f000f0u;
  }
  __device__ static void Multiply(bool zeros, int chunks, uint32_t unit, uint32_t x, int lane,
                                  float (&acc)[cluster::kRowTiles][kTiles][4]) {
    if (zeros) {
      MultiplyChunk<true, 0>(unit, x, lane, acc);
      if (chunks > 1) MultiplyChunk<true, 1>(unit, x, lane, acc);
    } else if (chunks > 1) {
      MultiplyChunk<false, 0>(unit, x, lane, acc);
      MultiplyChunk<false, 1>(unit, x, lane, acc);
    } else {
      MultiplyChunk<false, 0>(unit, x, lane, acc);
    }
  }
  template <bool kHasZeros, int kWhich>
  __device__ static void MultiplyChunk(uint32_t unit, uint32_t x, int lane,
                                       float (&acc)[cluster::kRowTiles][kTiles][4]) {
    const int g = lane / 4, t = lane % 4;
    constexpr int kOf = cluster::kUnitChunks;
    x += kWhich * kChunkBytes;
    uint32_t words[cluster::kRowTiles][4];
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      const uint4 codes = cuda::LoadShared16(unit + (r * kOf + kWhich) * kTileBytes + lane * 16);
      words[r][0] = codes.x, words[r][1] = codes.y, words[r][2] = codes.z, words[r][3] = codes.w;
    }
    // Sums begin with what zero points take from them.
    float eight[kTiles][4];
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
      const uint4 bits = cuda::LoadShared16(x + kMeta + c * 64 + t * 16);
      eight[c][0] = __uint_as_float(bits.x), eight[c][1] = __uint_as_float(bits.y);
      eight[c][2] = __uint_as_float(bits.z), eight[c][3] = __uint_as_float(bits.w);
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
        for (int r = 0; r < cluster::kRowTiles; ++r) {
          float eighths[2] = {1.0f, 1.0f};  // of the zero points of channels g and g + 8
          if (kHasZeros && pair + j == 0) {
            const uint32_t both = cuda::LoadShared2(unit + kZeros + ((r * kOf + kWhich) * 8 + g) * 2);
            eighths[0] = (__uint_as_float(0x4b000000u | (both & 0xff)) - 8388608.0f) * 0.125f;
            eighths[1] = (__uint_as_float(0x4b000000u | both >> 8) - 8388608.0f) * 0.125f;
          }
#pragma unroll
          for (int c = 0; c < kTiles; ++c) {
            const uint32_t b0 = j == 0 ? b[c].x : b[c].z, b1 = j == 0 ? b[c].y : b[c].w;
            if (pair + j > 0) {
              cuda::MmaF16(sum[r][c], a[r], b0, b1);
            } else if (kHasZeros) {
              const float begin[4] = {eight[c][0] * eighths[0], eight[c][1] * eighths[0],
                                      eight[c][2] * eighths[1], eight[c][3] * eighths[1]};
              cuda::MmaF16(sum[r][c], a[r], b0, b1, begin);
            } else {
              cuda::MmaF16(sum[r][c], a[r], b0, b1, eight[c]);
            }
          }
        }
      }
    }
#pragma unroll
    for (int r = 0; r < cluster::kRowTiles; ++r) {
      const float2 scale = cuda::LoadShared8(unit + kScales + ((r * kOf + kWhich) * 8 + g) * 8);
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          acc[r][c][e] = fmaf(e < 2 ? scale.x : scale.y, sum[r][c][e], acc[r][c][e]);
        }
      }
    }
  }
  static double Cost(const cluster::Plan& plan) {
    return cluster::CostOf(plan, kTiles == 2 ? kCosts16 : kCosts8, kColumns / kParts);
  }
};

using Rows4 = Rows<1, 2, 12, 3>;
using Rows8 = Rows<1, 1, 12, 3>;
using Rows16 = Rows<2, 1, 12, 6>;
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

bool FitsHopper(const cuda::SimtParams& params) {
  return params.m <= kDigitRows ? FitsDigits(params) : cluster::Fits<Rows4>(params);
}

absl::Status RunHopper(cuda::SimtParams p, const cuda::Stream& stream) {
  while (p.m > 0) {
    cuda::SimtParams part = p;
    part.m = RowsAtOnce(p);
    SF_RETURN_IF_ERROR(FitsDigits(part) ? RunDigits(part, stream)
                       : part.m <= 4    ? RunRows<Rows4>(part, stream)
                       : part.m <= 8    ? RunRows<Rows8>(part, stream)
                                        : RunRows<Rows16>(part, stream));
    p.m -= part.m;
    p.x += part.m * p.k;
    for (int i = 0; i < p.linears.count; ++i) p.linears.linear[i].y += part.m * p.linears.linear[i].n;
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
