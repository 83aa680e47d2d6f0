// Design: two launches. The first writes the keys and values that are seen as f16 tiles, swizzled as wgmma
// reads them, values transposed. The second gives 128 query rows of a head to two consumer warpgroups of 64
// rows on wgmma with an online softmax (T. Dao, "FlashAttention-2", 2023; J. Shah et al.,
// "FlashAttention-3", 2024: while the softmax of a tile runs, the values of the tile before are multiplied),
// and a producer that keeps two tiles of keys and two of values under way. Powers of two, one a query row
// and one a tile, bring values into the range of f16; they come off exactly.
#include <cuda_fp16.h>

#include <algorithm>

#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/exp2.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

constexpr int kTileM = 128;      // query rows: two warpgroups of 64
constexpr int kRows = 64;        // of a warpgroup
constexpr int kWarpRows = 16;    // of a warp
constexpr int kStages = 2;       // tiles of keys, and of values, in shared memory
constexpr int kRowBytes = 128;   // of a swizzled row
constexpr int kWarpgroup = 128;  // threads
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kConsumers = 2;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // of 65,536 / 384 = 168 at entry
constexpr int kThreadValues = 64;                                 // of a tile, in the launch that makes it
constexpr float kLog2E = 1.4426950408889634f;

// Keys of a tile: scores, weights and sums share the registers.
__host__ __device__ constexpr int KeysFor(int dim) { return dim == 256 ? 64 : 128; }
__host__ __device__ constexpr int PaddedDim(int64_t head_dim) {
  return head_dim <= 64 ? 64 : head_dim <= 128 ? 128 : 256;
}

// The f16 copies: tile t of a head holds keys from KeysFor() * (first + t) on.
struct Tiles {
  int64_t first = 0, count = 0;                // of a head
  uint16_t *k = nullptr, *v = nullptr;         // [num_kv_heads, count, KeysFor() * PaddedDim()]
  float *k_unit = nullptr, *v_unit = nullptr;  // [num_kv_heads, count]: what 1 in a tile stands for
};

// 2^e that brings amax to 2^14 and more, below f16's 2^16; a range that f32 sums of tiles of any units bear.
__device__ int LiftOf(float amax) {
  constexpr int kHighest = 40, kLowest = -48;
  return amax > 0 ? max(kLowest, min(kHighest, 14 - ilogbf(amax))) : kHighest;
}
__device__ float PowerOfTwo(int e) { return __int_as_float((e + 127) << 23); }
__device__ uint32_t PackF16(float a, float b) {
  const __half2 both = __floats2half2_rn(a, b);
  return *reinterpret_cast<const uint32_t*>(&both);
}
// Byte of 16-byte chunk `chunk` of row `row` in runs of 64 values with `rows` rows each.
__device__ int Swizzled(int rows, int row, int chunk) {
  return (chunk / 8 * rows + row) * kRowBytes + (chunk % 8 ^ row % 8) * 16;
}

template <int kDim>
inline constexpr int kTileThreads = KeysFor(kDim) * kDim / kThreadValues;

template <int kDim>
__global__ void __launch_bounds__(kTileThreads<kDim>)
    attention_f32_f32_tiles_sm90(const __grid_constant__ CudaParams p, const __grid_constant__ Tiles tiles) {
  constexpr int kKeys = KeysFor(kDim), kChunks = kThreadValues / 8;
  const int d = static_cast<int>(p.head_dim), thread = static_cast<int>(threadIdx.x);
  const int64_t tile = blockIdx.y * tiles.count + blockIdx.x, stride = p.num_kv_heads * d;
  const int64_t j0 = (tiles.first + blockIdx.x) * kKeys;
  const int keys = static_cast<int>(min(int64_t{kKeys}, p.first + p.m - j0));  // that are there
  const bool values = blockIdx.z == 1;
  const float* const from = (values ? p.v : p.k) + j0 * stride + blockIdx.y * d;
  // A chunk is 8 columns of a key, or 8 keys of a column.
  float x[kChunks][8];
  const auto key_of = [&](int c) { return (c * kTileThreads<kDim> + thread) / (kDim / 8); };
  const auto column_of = [&](int c) { return (c * kTileThreads<kDim> + thread) % (kDim / 8) * 8; };
  const int value_column = thread % kDim, value_key = thread / kDim * kThreadValues;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (values) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int key = value_key + c * 8 + i;
        x[c][i] = key < keys && value_column < d ? from[key * stride + value_column] : 0.0f;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        const int key = key_of(c), column = column_of(c) + i;
        float4 four = make_float4(0, 0, 0, 0);
        if (key < keys && column < d) four = *reinterpret_cast<const float4*>(from + key * stride + column);
        x[c][i] = four.x;
        x[c][i + 1] = four.y;
        x[c][i + 2] = four.z;
        x[c][i + 3] = four.w;
      }
    }
  }
  float amax = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(x[c][i]));
  }
  const int lift = LiftOf(cuda::BlockReduce(amax, cuda::Max()));
  const float power = PowerOfTwo(lift);
  char* const to = reinterpret_cast<char*>((values ? tiles.v : tiles.k) + tile * kKeys * kDim);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int at = values ? Swizzled(kDim, value_column, value_key / 8 + c)
                          : Swizzled(kKeys, key_of(c), column_of(c) / 8);
    const auto pair = [&](int i) { return PackF16(x[c][i] * power, x[c][i + 1] * power); };
    *reinterpret_cast<uint4*>(to + at) = make_uint4(pair(0), pair(2), pair(4), pair(6));
  }
  if (thread == 0) (values ? tiles.v_unit : tiles.k_unit)[tile] = PowerOfTwo(-lift);
}

template <int kDim>
struct Layout {
  static constexpr int kTile = KeysFor(kDim) * kDim * 2;
  static constexpr int kK = kTileM * kDim * 2, kV = kK + kStages * kTile;  // behind the queries
  static constexpr int kFactors = kV + kStages * kTile;                    // float [kTileM]
  static constexpr int kBarriers = kFactors + kTileM * 4;
  static constexpr int kBytes = kBarriers + 4 * kStages * 8;
};
enum Barrier { kKeysFull, kKeysEmpty, kValuesFull, kValuesEmpty };

// From one step of 16 values of K to the next in an operand of runs of 64 values with `rows` rows each.
__host__ __device__ constexpr uint64_t StepTo(int step, int rows) {
  return static_cast<uint64_t>(step / 4 * rows * (kRowBytes / 16) + step % 4 * 2);
}

// A warp's query rows in f16, and for each row what its scores are to be multiplied by (but for the keys'
// unit) to be logarithms to base 2.
template <int kDim>
__device__ void LoadQueries(const CudaParams& p, int64_t head, int block0, int warp_row, char* shared) {
  constexpr int kLanes = kDim / 4 < 32 ? kDim / 4 : 32;  // of a row
  constexpr int kEach = kDim / 4 / kLanes, kAtOnce = 32 / kLanes, kTurns = kWarpRows / kAtOnce;
  const int lane = static_cast<int>(threadIdx.x) % 32, d = static_cast<int>(p.head_dim);
  const int first_row = warp_row + lane / kLanes, first_column = lane % kLanes * 4;
  float4 x[kTurns][kEach];
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int64_t m = block0 + first_row + t * kAtOnce;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int column = first_column + e * kLanes * 4;
      x[t][e] = make_float4(0, 0, 0, 0);
      if (m < p.m && column < d) {
        x[t][e] = *reinterpret_cast<const float4*>(p.q + (m * p.num_heads + head) * d + column);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTurns; ++t) {
    const int row = first_row + t * kAtOnce;
    float amax = 0;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      amax = fmaxf(
          amax, fmaxf(fmaxf(fabsf(x[t][e].x), fabsf(x[t][e].y)), fmaxf(fabsf(x[t][e].z), fabsf(x[t][e].w))));
    }
    for (int offset = 1; offset < kLanes; offset *= 2) {
      amax = fmaxf(amax, __shfl_xor_sync(0xffffffffu, amax, offset));
    }
    const int lift = LiftOf(amax);
    const float power = PowerOfTwo(lift);
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int column = first_column + e * kLanes * 4;
      *reinterpret_cast<uint2*>(shared + Swizzled(kTileM, row, column / 8) + column % 8 * 2) = make_uint2(
          PackF16(x[t][e].x * power, x[t][e].y * power), PackF16(x[t][e].z * power, x[t][e].w * power));
    }
    if (lane % kLanes == 0) {
      reinterpret_cast<float*>(shared + Layout<kDim>::kFactors)[row] = p.scale * kLog2E * PowerOfTwo(-lift);
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    attention_f32_f32_sm90(const __grid_constant__ CudaParams p, const __grid_constant__ Tiles tiles) {
  using L = Layout<kDim>;
  constexpr int kKeys = KeysFor(kDim);
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = cuda::SharedAddress(shared);
  const auto barrier = [&](Barrier kind, int n) {
    return base + L::kBarriers + static_cast<uint32_t>(kind * kStages + n % kStages) * 8;
  };
  const auto phase = [](int n) { return static_cast<uint32_t>(n / kStages % 2); };
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const int64_t head = blockIdx.x, kv_head = head / (p.num_heads / p.num_kv_heads);
  // The last rows see the most keys: they start first.
  const int block0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * kTileM;
  const int first = static_cast<int>(p.first), window = static_cast<int>(p.window);
  const int end = first + min(block0 + kTileM, static_cast<int>(p.m));
  const int oldest = window > 0 ? max(0, first + block0 - window + 1) : 0;
  const int tile0 = oldest / kKeys, count = (end + kKeys - 1) / kKeys - tile0;
  const int64_t from = kv_head * tiles.count + tile0 - tiles.first;  // tile n is from + n

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      cuda::InitBarrier(barrier(kKeysFull, s), 1);
      cuda::InitBarrier(barrier(kValuesFull, s), 1);
      cuda::InitBarrier(barrier(kKeysEmpty, s), kConsumers);
      cuda::InitBarrier(barrier(kValuesEmpty, s), kConsumers);
    }
    cuda::FenceBarrierInit();
  }
  __syncthreads();

  if (group == 0) {
    cuda::GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) {
      const auto load = [&](Barrier full, Barrier empty, int n, const uint16_t* tile, int to) {
        cuda::WaitBarrierGuarded(barrier(empty, n), phase(n) ^ 1);
        cuda::ArriveExpecting(barrier(full, n), L::kTile);
        cuda::LoadBytes(base + static_cast<uint32_t>(to + n % kStages * L::kTile), tile, L::kTile,
                        barrier(full, n));
      };
      for (int n = 0; n < count; ++n) {
        const int64_t at = (from + n) * kKeys * kDim;
        load(kKeysFull, kKeysEmpty, n, tiles.k + at, L::kK);
        load(kValuesFull, kValuesEmpty, n, tiles.v + at, L::kV);
      }
    }
    return;
  }
  cuda::TakeRegisters<kConsumerRegisters>();
  const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int lane = thread % 32, warp_row = consumer * kRows + thread / 32 * kWarpRows;
  LoadQueries<kDim>(p, head, block0, warp_row, shared);
  cuda::FenceToCopyEngine();
  cuda::NamedBarrier(1 + consumer, kWarpgroup);

  const int row = warp_row + lane / 4;  // and the row 8 below
  const float factor[2] = {reinterpret_cast<const float*>(shared + L::kFactors)[row],
                           reinterpret_cast<const float*>(shared + L::kFactors)[row + 8]};
  const uint64_t q_rows = cuda::OperandDescriptor(base + static_cast<uint32_t>(consumer * kRows * kRowBytes));
  const float* const k_unit = tiles.k_unit + from;
  const float* const v_unit = tiles.v_unit + from;
  // A thread's accumulators; accumulator i is of its row i / 2 % 2. Scores are new with every tile: ptxas
  // serializes wgmma that adds to what other instructions wrote.
  using Scores = float[kKeys / 2];
  float out[kDim / 2];
  uint32_t weight[kKeys / 4];  // f16
  float max[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, shrink[2] = {0, 0};
  float unit = v_unit[0];  // of `out`

  const auto multiply_keys = [&](int n, Scores& score) {
    cuda::WaitBarrier(barrier(kKeysFull, n), phase(n));
    const uint64_t k_rows =
        cuda::OperandDescriptor(base + static_cast<uint32_t>(L::kK + n % kStages * L::kTile));
    cuda::WarpgroupFence();
#pragma unroll
    for (int s = 0; s < kDim / 16; ++s) {
      cuda::WgmmaF16(score, q_rows + StepTo(s, kTileM), k_rows + StepTo(s, kKeys), s > 0);
    }
    cuda::WarpgroupCommit();
  };
  const auto multiply_values = [&](int n) {
    cuda::WaitBarrier(barrier(kValuesFull, n), phase(n));
    const uint64_t v_rows =
        cuda::OperandDescriptor(base + static_cast<uint32_t>(L::kV + n % kStages * L::kTile));
    cuda::WarpgroupFence();
#pragma unroll
    for (int s = 0; s < kKeys / 16; ++s) {
      cuda::WgmmaF16(out, weight + 4 * s, v_rows + StepTo(s, kDim), n > 0 || s > 0);
    }
    cuda::WarpgroupCommit();
  };
  const auto done = [&](Barrier empty, int n) {
    if (thread == 0) cuda::Arrive(barrier(empty, n));
  };
  // Scores of tile n become weights, not yet in f16.
  const auto soften = [&](int n, float key_unit, Scores& score) {
    const int j0 = (tile0 + n) * kKeys, lowest = first + block0 + consumer * kRows;
    if (j0 + kKeys - 1 > lowest || (window > 0 && j0 <= lowest + kRows - 1 - window)) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        const int position = first + block0 + row + i / 2 % 2 * 8;
        const int j = j0 + 2 * (lane % 4) + i / 4 * 8 + i % 2;
        if (j > position || (window > 0 && j <= position - window)) score[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
      for (int i = 2 * r; i < kKeys / 2; i += 4) {
        most[0] = fmaxf(most[0], score[i]);
        most[1] = fmaxf(most[1], score[i + 1]);
      }
      float largest = fmaxf(most[0], most[1]);
      for (int offset = 1; offset < 4; offset *= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
      }
      const float times = factor[r] * key_unit, now = fmaxf(max[r], largest * times);
      // Nothing seen so far leaves the maximum at -infinity: then every weight is 0, not NaN.
      const float less = now == -INFINITY ? 0.0f : now;
      shrink[r] = cuda::Exp2(max[r] - less);
      max[r] = now;
      float sum[2] = {0, 0};
#pragma unroll
      for (int i = 2 * r; i < kKeys / 2; i += 4) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          score[i + e] = cuda::Exp2(fmaf(score[i + e], times, -less));
          sum[e] += score[i + e];
        }
      }
      total[r] = fmaf(total[r], shrink[r], sum[0] + sum[1]);  // of this lane's columns
    }
  };
  // Sums of the tiles before, in the unit of the next one's values.
  const auto rescale = [&](float next_unit) {
    const float by[2] = {shrink[0] * (unit / next_unit), shrink[1] * (unit / next_unit)};
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) out[i] *= by[i / 2 % 2];
    cuda::HoldRegisters(out);
    unit = next_unit;
  };
  const auto pack = [&](const Scores& score) {
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) weight[i] = PackF16(score[2 * i], score[2 * i + 1]);
    cuda::HoldRegisters(weight);
  };

  {
    Scores score;
    const float key_unit = k_unit[0];
    multiply_keys(0, score);
    cuda::WarpgroupWait<0>();
    cuda::HoldRegisters(score);
    done(kKeysEmpty, 0);
    soften(0, key_unit, score);
    pack(score);
  }
#pragma unroll 1
  for (int n = 1; n < count; ++n) {
    Scores score;
    const float key_unit = k_unit[n], next_unit = v_unit[n];
    if (kDim == 256) {  // two sets of accumulators under way would spill
      multiply_values(n - 1);
      cuda::WarpgroupWait<0>();
      cuda::HoldRegisters(out);
      done(kValuesEmpty, n - 1);
      multiply_keys(n, score);
      cuda::WarpgroupWait<0>();
      cuda::HoldRegisters(score);
      done(kKeysEmpty, n);
      soften(n, key_unit, score);
      rescale(next_unit);
      pack(score);
      continue;
    }
    multiply_keys(n, score);
    multiply_values(n - 1);
    cuda::WarpgroupWait<1>();
    cuda::HoldRegisters(score);
    done(kKeysEmpty, n);
    soften(n, key_unit, score);
    cuda::HoldRegisters(score);
    cuda::WarpgroupWait<0>();
    cuda::HoldRegisters(out);
    done(kValuesEmpty, n - 1);
    rescale(next_unit);
    pack(score);
  }
  multiply_values(count - 1);
  cuda::WarpgroupWait<0>();
  cuda::HoldRegisters(out);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int offset = 1; offset < 4; offset *= 2) total[r] += __shfl_xor_sync(0xffffffffu, total[r], offset);
    const int64_t m = block0 + row + r * 8;
    if (m >= p.m) continue;
    float* const to = p.o + (m * p.num_heads + head) * p.head_dim + 2 * (lane % 4);
    const float by = unit / total[r];
    const int left = static_cast<int>(p.head_dim) - 2 * (lane % 4);
#pragma unroll
    for (int i = 2 * r; i < kDim / 2; i += 4) {
      if (2 * i - 4 * r < left) {
        *reinterpret_cast<float2*>(to + i / 4 * 8) = make_float2(out[i] * by, out[i + 1] * by);
      }
    }
  }
}

int64_t TilesFor(int64_t positions, int64_t head_dim) {
  return cuda::CeilDiv(positions, KeysFor(PaddedDim(head_dim)));
}

template <int kDim>
absl::Status LaunchF16(const CudaParams& p, uint8_t* memory, const cuda::Stream& stream) {
  constexpr int kKeys = KeysFor(kDim);
  const int64_t oldest = p.window > 0 ? std::max<int64_t>(0, p.first - p.window + 1) : 0;
  Tiles tiles = {.first = oldest / kKeys};
  tiles.count = TilesFor(p.first + p.m, p.head_dim) - tiles.first;
  const int64_t all = p.num_kv_heads * tiles.count;
  tiles.k = reinterpret_cast<uint16_t*>(memory);
  tiles.v = tiles.k + all * kKeys * kDim;
  tiles.k_unit = reinterpret_cast<float*>(tiles.v + all * kKeys * kDim);
  tiles.v_unit = tiles.k_unit + all;
  const unsigned kv_heads = static_cast<unsigned>(p.num_kv_heads);
  SF_RETURN_IF_ERROR(cuda::Launch(
      "attention_f32_f32 tiles", attention_f32_f32_tiles_sm90<kDim>,
      {.grid = dim3(static_cast<unsigned>(tiles.count), kv_heads, 2), .block = dim3(kTileThreads<kDim>)},
      stream, p, tiles));
  return cuda::Launch(
      "attention_f32_f32", attention_f32_f32_sm90<kDim>,
      {.grid = dim3(static_cast<unsigned>(p.num_heads), static_cast<unsigned>(cuda::CeilDiv(p.m, kTileM))),
       .block = dim3(kThreads),
       .shared_bytes = Layout<kDim>::kBytes},
      stream, p, tiles);
}

}  // namespace

bool SupportsF16(const CudaParams& p, const cuda::DeviceInfo& device) {
  return device.sm == 90 && p.head_dim <= 256 && p.head_dim % 4 == 0 && p.scale > 0 &&
         cuda::CeilDiv(p.m, kTileM) <= 65535;
}

int64_t F16Bytes(int64_t positions, int64_t num_kv_heads, int64_t head_dim) {
  const int64_t dim = PaddedDim(head_dim), keys = KeysFor(PaddedDim(head_dim));
  return num_kv_heads * TilesFor(positions, head_dim) * 2 * (keys * dim * 2 + int64_t{sizeof(float)});
}

absl::Status RunF16(const CudaParams& p, void* memory, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  auto* const bytes = static_cast<uint8_t*>(memory);
  switch (PaddedDim(p.head_dim)) {
    case 64:
      return LaunchF16<64>(p, bytes, stream);
    case 128:
      return LaunchF16<128>(p, bytes, stream);
    default:
      return LaunchF16<256>(p, bytes, stream);
  }
}

}  // namespace spikefold::kernels::attention_f32_f32
