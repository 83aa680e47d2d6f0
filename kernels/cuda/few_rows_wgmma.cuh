// Products of codes for up to 64 rows of x on Hopper: bound by reading W once. W is the left operand of
// wgmma, 64 channels a warpgroup, and x the right one, so that few rows waste nothing; both come through a
// ring that the copy engine fills. Where the channels alone do not fill the chip, the blocks of a cluster
// share out K: sums are integers, so they may be added in any order, and each block finishes some of the rows
// from the sums that lie in the others' shared memory. Blocks are small enough for two on a multiprocessor:
// while one ends, the other's weights, of the next kernel too, are on their way.
// Exact     Outputs are made in the CPU's order of roundings. Kept columns are added one after the other, by
//           FMA: in float32 the outputs are the CPU's bit for bit.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/few_rows_plan.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/outlier_tail_cuda.h"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace spikefold::kernels::cuda::few {

inline constexpr int kStep = 128;       // bytes of K a stage: one swizzled row
inline constexpr int kWarpgroup = 128;  // threads
inline constexpr int kChannels = 64;    // of a warpgroup
inline constexpr int kKeptStep = 64;    // kept columns that fill a stage
inline constexpr int64_t kMaxKept = 128;
inline constexpr int kSharedBytes = 112 << 10;  // of a block: two a multiprocessor
inline constexpr int kAloneBytes = 200 << 10;   // of a block that is alone there

// Registers of a thread, so that two blocks of one or two warpgroups and a producer's warp fit, or one of
// four: a quarter of a multiprocessor has 16,384 for every fourth warp.
template <int kGroups>
inline constexpr int kLeanRegisters = kGroups == 1 ? 168 : 96;
// Of kernels that keep float sums as well.
template <int kGroups>
inline constexpr int kRegisters = kGroups == 1 ? 200 : 112;

struct Operands {         // device addresses
  int64_t m = 0;          // 1 to kMaxRows
  int64_t row_bytes = 0;  // of x and w, a multiple of 16; bytes behind K are zero
  const int8_t* x = nullptr;
  const float* x_scale = nullptr;    // [m]
  int64_t num_kept = 0;              // at most kMaxKept
  const uint16_t* kept_x = nullptr;  // [m, num_kept rounded up to kKeptStep] bf16
  LinearGroup linears;               // kept_rows as kept_x; y is [m, n] of the output's type
};

struct Maps {
  CUtensorMap x, kept_x, w[kMaxLinears], kept_w[kMaxLinears];
};
struct Work {
  int m = 0, steps = 0, stages = 0, num_kept = 0;
  const float* x_scale = nullptr;
  LinearGroup linears;
};

// How W reaches the left operand: here as codes in bytes, which wgmma reads where the copy engine put them.
// Another such type may make them in registers (matmul_f32_s8r_u4h_tiles.cuh).
template <int kGroups>
struct ByteCodes {
  static constexpr bool kMapped = true;                       // W comes by Maps::w
  static constexpr int kBytes = kGroups * kChannels * kStep;  // of a stage
  static constexpr int kReaders = 1;                          // of a warpgroup, that give a stage back
  struct Registers {};
  // A stage is multiplied in parts, each with registers of its own.
  template <int kRows>  // whether the operand has 128 more than W everywhere, unsigned
  static constexpr bool kBiased = false;
  static constexpr int kParts = 1;
  // Starts the copy of step `step` to shared memory at `to`; `barrier` will receive LoadedBytes().
  __device__ static void Load(const Maps& maps, const Linear&, int which, int n0, int step, uint32_t to,
                              uint32_t barrier) {
    LoadBox(to, maps.w[which], barrier, step * kStep, n0);
  }
  __device__ static int LoadedBytes(const Linear&, int) { return kBytes; }
  // Starts the multiplications of a part by the warpgroup, into the sums or, unless `add`, over them. `at`:
  // where Load() put W. `x`: the right operand's descriptor.
  template <int kPart, int kCount>
  __device__ static void Multiply(uint32_t (&acc)[kCount], Registers&, const char* at, uint64_t x, bool add) {
    const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
    const uint64_t w = OperandDescriptor(SharedAddress(at) + group * kChannels * kStep);
    WarpgroupFence();
#pragma unroll
    for (int k = 0; k < kStep / 32; ++k) WgmmaS8(acc, w + 2 * k, x + 2 * k, add || k > 0);
  }
};

// A stage of the ring holds 128 columns of K: of the rows of x, then of the block's channels. A stage of kept
// columns holds 64 of them, first those of W.
__host__ __device__ constexpr int StageBytes(int rows, int w_bytes) {
  return (rows * kStep + w_bytes + 1023) / 1024 * 1024;
}
__host__ __device__ constexpr int KeptStageBytes(int rows, int groups) {
  return (groups * kChannels + rows) * kStep;
}

// By one thread: kept columns of the block's channels and of its rows, which lie `x_at` bytes behind them in
// each of `stages` stages from `to` on.
__device__ inline void LoadKeptStages(const Maps& maps, int which, int n0, int m0, int stages, uint32_t to,
                                      int stage_bytes, int x_at, uint32_t barrier) {
  ArriveExpecting(barrier, stages * stage_bytes);
  for (int u = 0; u < stages; ++u) {
    const uint32_t at = to + u * stage_bytes;
    LoadBox(at, maps.kept_w[which], barrier, u * kKeptStep, n0);
    LoadBox(at + x_at, maps.kept_x, barrier, u * kKeptStep, m0);
  }
}

// 8 bf16 values of row `row` of an operand in shared memory, from column 8 * chunk on.
__device__ inline uint4 LoadKept(const char* operand, int row, int chunk) {
  return *reinterpret_cast<const uint4*>(operand + row * kStep + ((chunk ^ (row % 8)) * 16));
}
__device__ inline float KeptAt(const uint4& v, int i) {
  const uint32_t pair = i / 2 == 0 ? v.x : i / 2 == 1 ? v.y : i / 2 == 2 ? v.z : v.w;
  return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
}

// Outputs of a thread, in quads: the accumulators of wgmma.cuh with channels as its rows and rows as its
// columns. Quad i of a block that finishes every step-th from `first` on: rows RowOf(..., 0) and (..., 1),
// each of channels c and c + 8: y[i][e] is channel c + 8 (e / 2), row e % 2.
__device__ inline int RowOf(int i, int first, int step, int e) {
  return (i * step + first) * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + e;
}
// Adds up to 8 kept columns, one after the other. `operands`: a stage, with x behind `x_at` bytes.
template <int kQuads>
__device__ inline void AddKept(const char* operands, int x_at, int chunk, int columns, int channel, int first,
                               int step, float (&y)[kQuads][4]) {
  const uint4 w[2] = {LoadKept(operands, channel, chunk), LoadKept(operands, channel + 8, chunk)};
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    if (i * step + first >= kQuads) break;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const uint4 x = LoadKept(operands + x_at, RowOf(i, first, step, e), chunk);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        if (c >= columns) continue;
        y[i][e] = fmaf(KeptAt(x, c), KeptAt(w[0], c), y[i][e]);
        y[i][2 + e] = fmaf(KeptAt(x, c), KeptAt(w[1], c), y[i][2 + e]);
      }
    }
    CompilerFence();  // all of x at once would not fit into registers
  }
}

// Sums of the rows of x, by the threads that multiply: each adds the same place of every stage, of one row or
// of several.
template <int kRows, int kThreads>
struct RowSums {
  static constexpr int kChunk = kRows * kStep / kThreads < 16 ? kRows * kStep / kThreads : 16;  // bytes
  static constexpr int kChunks = kRows * kStep / kThreads / kChunk;
  int sum[kChunks] = {};
  __device__ void Add(const char* x) {
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const char* const at = x + (j * kThreads + static_cast<int>(threadIdx.x)) * kChunk;
      struct alignas(kChunk) Words {
        int word[kChunk / 4];
      };
      const Words words = *reinterpret_cast<const Words*>(at);
#pragma unroll
      for (int i = 0; i < kChunk / 4; ++i) sum[j] = __dp4a(words.word[i], 0x01010101, sum[j]);
    }
  }
  __device__ void Store(int* sums) {
    constexpr int kLanes = kStep / kChunk;  // that share a row
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) sum[j] += __shfl_xor_sync(~0u, sum[j], offset);
      const int place = j * kThreads + static_cast<int>(threadIdx.x);
      if (place % kLanes == 0) sums[place / kLanes] = sum[j];
    }
  }
};

__device__ inline int4 PlusBits(int4 a, int4 b) {
  return make_int4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 PlusBits(float4 a, int4 b) {
  return make_float4(a.x + __int_as_float(b.x), a.y + __int_as_float(b.y), a.z + __int_as_float(b.z),
                     a.w + __int_as_float(b.w));
}
// Adds up, in the order of their ranks, what the blocks of a cluster, kSplits of them, left in their shared
// memory where `from` is in this one's: [quad][thread of the warpgroup]. sums[i] is of quad i * kSplits +
// rank. Several reads are on their way at once, for each takes as long as some hundreds of instructions. The
// result depends on all of them.
template <int kSplits, typename Quad, int kQuads>
__device__ inline uint32_t GatherSums(uint32_t from, int rank, Quad (&sums)[kQuads]) {
  uint32_t read = 0;
  constexpr int kMine = (kQuads + kSplits - 1) / kSplits, kTogether = kSplits > 4 ? 1 : 8 / kSplits;
#pragma unroll
  for (int first = 0; first < kMine; first += kTogether) {
    int4 parts[kTogether][kSplits];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int quad = (first + i) * kSplits + rank;
#pragma unroll
      for (int other = 0; other < kSplits; ++other) {
        parts[i][other] = make_int4(0, 0, 0, 0);
        if (first + i >= kMine || quad >= kQuads) continue;
        parts[i][other] = LoadRemote16(from + quad * kWarpgroup * 16, static_cast<uint32_t>(other));
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether && first + i < kMine; ++i) {
      Quad sum = {};
#pragma unroll
      for (int other = 0; other < kSplits; ++other) {
        const int4& part = parts[i][other];
        sum = PlusBits(sum, part);
        read ^= static_cast<uint32_t>(part.x ^ part.y ^ part.z ^ part.w);
      }
      sums[first + i] = sum;
    }
  }
  return read;
}
template <typename Quad, int kQuads>
__device__ inline uint32_t Gather(int splits, uint32_t from, int rank, Quad (&sums)[kQuads]) {
  switch (splits) {
    case 2:
      return GatherSums<2>(from, rank, sums);
    case 3:
      return GatherSums<3>(from, rank, sums);
    case 4:
      return GatherSums<4>(from, rank, sums);
    default:
      return GatherSums<6>(from, rank, sums);
  }
}
inline absl::Status CheckSplits(const char* name, const Plan& plan) {
  if (plan.splits >= 1 && plan.splits != 5 && plan.splits <= kMaxSplits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " does not share out K over ", plan.splits, " blocks"));
}

// Output is float or __nv_bfloat16.
template <typename Output, int kRows, int kGroups, template <int> typename Codes>
__global__ void __launch_bounds__(kGroups* kWarpgroup + kWarp) __maxnreg__(kLeanRegisters<kGroups>)
    few_rows_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using Left = Codes<kGroups>;
  constexpr int kQuads = kRows / 8, kXBytes = kRows * kStep, kStage = StageBytes(kRows, Left::kBytes);
  constexpr bool kBiased = Left::template kBiased<kRows>;
  constexpr int kKeptXAt = kGroups * kChannels * kStep, kKeptStage = KeptStageBytes(kRows, kGroups);
  extern __shared__ __align__(1024) char shared[];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int splits = static_cast<int>(gridDim.y), rank = static_cast<int>(blockIdx.y);
  const int begin = work.steps * rank / splits, steps = work.steps * (rank + 1) / splits - begin;
  int64_t index = blockIdx.x;
  const int which = simt::LinearAt(work.linears, kGroups * kChannels, index);
  const Linear& w = work.linears.linear[which];
  const int n0 = static_cast<int>(index) * kGroups * kChannels;
  const int kept = w.kept_rows == nullptr || w.kept_w == nullptr ? 0 : work.num_kept;
  const int kept_stages = (kept + kKeptStep - 1) / kKeptStep;
  const int all_kept_stages = (work.num_kept + kKeptStep - 1) / kKeptStep;

  // The ring, the stages of kept columns, then barriers.
  const uint32_t base = SharedAddress(shared);
  const int kept_at = work.stages * kStage;
  const Ring ring = {base + kept_at + all_kept_stages * kKeptStage, work.stages};
  const uint32_t kept_full = ring.End();
  // Of the rows: x_scale, and sums of the block's columns of x.
  float* const x_scales = reinterpret_cast<float*>(shared + (kept_full + 8 - base));
  int* const x_sums = reinterpret_cast<int*>(x_scales + kRows);
  const bool producer = warp == kGroups * 4;

  const auto load_w = [&](int t, int s) {
    ArriveExpecting(ring.Full(s), kXBytes + Left::LoadedBytes(w, n0));
    Left::Load(maps, w, which, n0, begin + t, base + s * kStage + kXBytes, ring.Full(s));
  };
  const auto load_x = [&](int t, int s) {
    LoadBox(base + s * kStage, maps.x, ring.Full(s), (begin + t) * kStep, 0);
  };
  const int ahead = min(steps, work.stages);
  if (producer && lane == 0) {
    ring.Init(1, kGroups * Left::kReaders);
    InitBarrier(kept_full, 1);
    FenceBarrierInit();
    PrefetchMap(maps.x);
    for (int t = 0; t < ahead; ++t) load_w(t, t);  // does not depend on the kernel before
  }
  __syncthreads();
  LetNextStart();

  if (producer) {
    if (lane == 0) {
      WaitForInputs();
      for (int t = 0; t < ahead; ++t) load_x(t, t);
      if (kept > 0) {
        LoadKeptStages(maps, which, n0, 0, kept_stages, base + kept_at, kKeptStage, kKeptXAt, kept_full);
      }
      Refill(ring, steps, [&](int t, int s) {
        load_w(t, s);
        load_x(t, s);
      });
    }
    __syncwarp();
    if (splits > 1) {
      ClusterArriveRelaxed();
      ClusterWait();
      ClusterArriveRelaxed();
      ClusterWait();
    }
    return;
  }

  const int group = warp / 4, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const int channel = warp * 16 + lane / 4;  // and channel + 8
  float w_scale[2] = {}, bias[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int n = n0 + channel + 8 * i;
    if (n < w.n) w_scale[i] = w.w_scale[n];
    if (n < w.n && w.bias != nullptr) bias[i] = w.bias[n];
  }
  WaitForInputs();
  for (int i = static_cast<int>(threadIdx.x); i < kRows; i += kGroups * kWarpgroup) {
    x_scales[i] = i < work.m ? work.x_scale[i] : 0.0f;
  }

  uint32_t acc[4 * kQuads];
  typename Left::Registers registers[Left::kParts];
  RowSums<kRows, kGroups * kWarpgroup> row_sums;
  RingPlace at;
  for (int t = 0; t < steps; ++t) {
    WaitBarrierGuarded(ring.Full(at.stage), at.phase);
    const char* const w_codes = shared + at.stage * kStage + kXBytes;
    const uint64_t x_codes = OperandDescriptor(base + at.stage * kStage);
    Left::template Multiply<0>(acc, registers[0], w_codes, x_codes, t > 0);
    WarpgroupCommit();
    // A stage is given back when the next one's multiplications have been started.
    if (t > 0) {
      WarpgroupWait<1>();
      if (thread % (kWarpgroup / Left::kReaders) == 0) {
        Arrive(ring.Empty(at.stage == 0 ? work.stages - 1 : at.stage - 1));
      }
    }
    if constexpr (kBiased) row_sums.Add(shared + at.stage * kStage);
    if constexpr (Left::kParts == 2) {
      Left::template Multiply<1>(acc, registers[1], w_codes, x_codes, true);
      WarpgroupCommit();
      WarpgroupWait<1>();
    }
    at.Next(work.stages);
  }
  WarpgroupWait<0>();
  if constexpr (kBiased) row_sums.Store(x_sums);
  NamedBarrier(1, kGroups * kWarpgroup);

  int4 sums[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    uint32_t off[2] = {};
#pragma unroll
    for (int e = 0; e < 2 && kBiased; ++e) off[e] = 128u * static_cast<uint32_t>(x_sums[RowOf(i, 0, 1, e)]);
    sums[i] = make_int4(static_cast<int>(acc[4 * i] - off[0]), static_cast<int>(acc[4 * i + 1] - off[1]),
                        static_cast<int>(acc[4 * i + 2] - off[0]), static_cast<int>(acc[4 * i + 3] - off[1]));
  }
  if (splits > 1) {
    // Where the ring was: [group][quad][thread]. Nobody reads the ring any more.
    int4* const own = reinterpret_cast<int4*>(shared) + group * kQuads * kWarpgroup + thread;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) own[i * kWarpgroup] = sums[i];
    ClusterArrive();
    ClusterWait();
    AwaitValue(Gather(splits, SharedAddress(own), rank, sums));
    ClusterArriveRelaxed();  // the others may go when all have read
  }

  // The quads that this block finishes: every splits-th.
  const auto row_of = [&](int i, int e) { return RowOf(i, rank, splits, e); };
  // to(i, e, at) for the outputs of this block: where they lie.
  const auto for_each = [&](auto to) {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      if (i * splits + rank >= kQuads) break;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int m = row_of(i, e % 2), n = n0 + channel + e / 2 * 8;
        if (m < work.m && n < w.n) to(i, e, m * w.n + n);
      }
    }
  };
  const auto sum_of = [&](int i, int e) {
    return e == 0 ? sums[i].x : e == 1 ? sums[i].y : e == 2 ? sums[i].z : sums[i].w;
  };
  if (w.sums != nullptr) for_each([&](int i, int e, int64_t at) { w.sums[at] = sum_of(i, e); });
  constexpr bool kFloat = std::is_same_v<Output, float>;
  float y[kQuads][4];  // channel e / 2, row e % 2
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    if (i * splits + rank >= kQuads) break;
    const float2 x_scale = *reinterpret_cast<const float2*>(x_scales + row_of(i, 0));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      y[i][e] = static_cast<float>(sum_of(i, e)) * (e % 2 == 0 ? x_scale.x : x_scale.y) * w_scale[e / 2];
      if (!kFloat && w.bias != nullptr) y[i][e] += bias[e / 2];
    }
  }
  if (kept > 0) {
    WaitBarrierGuarded(kept_full, 0);
#pragma unroll 1
    for (int c = 0; c < kept; c += 8) {
      AddKept(shared + kept_at + c / kKeptStep * kKeptStage, kKeptXAt, c % kKeptStep / 8, kept - c, channel,
              rank, splits, y);
    }
  }
  Output* const out = reinterpret_cast<Output*>(w.y);
  for_each([&](int i, int e, int64_t at) {
    if constexpr (kFloat) {
      out[at] = w.bias != nullptr ? y[i][e] + bias[e / 2] : y[i][e];
    } else {
      out[at] = __float2bfloat16_rn(y[i][e]);
    }
  });
  if (splits > 1) ClusterWait();
}

inline int64_t Tiles(const LinearGroup& group, int64_t channels) {
  int64_t tiles = 0;
  for (int i = 0; i < group.count; ++i) tiles += CeilDiv(group.linear[i].n, channels);
  return tiles;
}
inline int KeptStages(const Operands& p) { return static_cast<int>(CeilDiv(p.num_kept, kKeptStep)); }
// Whether the kernel takes them.
inline bool Fits(const Operands& p, const DeviceInfo& device) {
  bool fits = device.sm == 90 && p.m > 0 && p.m <= kMaxRows && p.num_kept <= kMaxKept;
  for (int i = 0; i < p.linears.count; ++i) {
    const Linear& w = p.linears.linear[i];
    if (p.num_kept > 0 && w.kept_w != nullptr) fits = fits && p.kept_x != nullptr && w.kept_rows != nullptr;
  }
  return fits;
}

inline absl::StatusOr<CUtensorMap> CodesMap(const void* codes, int64_t rows, int64_t row_bytes, int64_t box,
                                            bool read_once) {
  return MakeTensorMap({.element = Element::kByte,
                        .data = codes,
                        .rows = rows,
                        .columns = row_bytes,
                        .stride = row_bytes,
                        .box_rows = box,
                        .read_once = read_once});
}
// Boxes of `rows` rows of x and `channels` of W, if that is a matrix of codes.
inline absl::StatusOr<Maps> MapsOf(const Operands& p, int rows, int channels, bool codes = true) {
  const int64_t kept = KeptStages(p) * kKeptStep;
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, CodesMap(p.x, p.m, p.row_bytes, rows, false));
  if (kept > 0 && p.kept_x != nullptr) {
    SF_ASSIGN_OR_RETURN(maps.kept_x, MapOfRows(Element::kBf16, p.kept_x, p.m, kept, rows));
  }
  for (int i = 0; i < p.linears.count; ++i) {
    const Linear& w = p.linears.linear[i];
    if (codes) {
      SF_ASSIGN_OR_RETURN(maps.w[i], CodesMap(w.w, w.n, p.row_bytes, channels, true));
    }
    if (kept > 0 && w.kept_w != nullptr) {
      SF_ASSIGN_OR_RETURN(maps.kept_w[i], MapOfRows(Element::kBf16, w.kept_rows, w.n, kept, channels));
    }
  }
  return maps;
}

template <typename Output, int kRows, int kGroups, template <int> typename Codes>
absl::Status Launch(const char* name, const Operands& p, const Plan& plan, const Stream& stream) {
  using Left = Codes<kGroups>;
  constexpr int kStage = StageBytes(kRows, Left::kBytes), kBlock = kGroups * kChannels;
  SF_RETURN_IF_ERROR(CheckSplits(name, plan));
  SF_ASSIGN_OR_RETURN(const Maps maps, MapsOf(p, kRows, kBlock, Left::kMapped));
  // The sums of a block that shares K lie where the ring was.
  constexpr int kLeastStages = (kRows * kBlock * 4 + kStage - 1) / kStage;
  const int stages = plan.splits > 1 ? std::max(plan.stages, kLeastStages) : plan.stages;
  const Work work = {.m = static_cast<int>(p.m),
                     .steps = static_cast<int>(CeilDiv(p.row_bytes, kStep)),
                     .stages = stages,
                     .num_kept = static_cast<int>(p.num_kept),
                     .x_scale = p.x_scale,
                     .linears = p.linears};
  const auto splits = static_cast<unsigned>(plan.splits);
  return cuda::Launch(name, few_rows_sm90<Output, kRows, kGroups, Codes>,
                      {.grid = dim3(static_cast<unsigned>(Tiles(p.linears, kBlock)), splits),
                       .block = dim3(kGroups * kWarpgroup + kWarp),
                       .shared_bytes = stages * kStage + KeptStages(p) * KeptStageBytes(kRows, kGroups) +
                                       (2 * stages + 1 + kRows) * 8,
                       .overlaps = true,
                       .cluster_y = splits},
                      stream, maps, work);
}

inline int RowsOf(const Operands& p) { return p.m <= 16 ? 16 : p.m <= 32 ? 32 : 64; }

// As many stages as there is room for, kept columns aside.
inline int StagesOf(const Operands& p, int groups, int shared_bytes) {
  constexpr int kMaxStages = 10;
  const int stage = (groups * kChannels + RowsOf(p)) * kStep;
  return std::clamp((shared_bytes - 256) / stage - KeptStages(p), 2, kMaxStages);
}

// As measured on an H200 with K of 4096 and 14336: where all channels fit on the chip at once, two blocks
// share their K; where there are more, a block takes twice the channels. One block has a multiprocessor to
// itself where K is long or the rows' sums leave no room for a second one.
inline Plan PlanOf(const Operands& p, const DeviceInfo& device) {
  constexpr int64_t kLongSteps = 64;
  const int64_t steps = CeilDiv(p.row_bytes, kStep);
  const bool few = Tiles(p.linears, kChannels) <= device.num_sms && steps > 1;
  Plan plan = {.groups = few ? 1 : 2, .splits = few ? 2 : 1};
  const bool alone = few ? steps >= kLongSteps : RowsOf(p) == 64;
  plan.stages = StagesOf(p, plan.groups, alone ? kAloneBytes : kSharedBytes);
  return plan;
}

// Requires Fits().
template <typename Output>
absl::Status Run(const char* name, const Operands& p, Plan plan, const DeviceInfo& device,
                 const Stream& stream) {
  if (plan.groups == 0) plan = PlanOf(p, device);
  switch (RowsOf(p) * 4 + plan.groups) {
    case 16 * 4 + 1:
      return Launch<Output, 16, 1, ByteCodes>(name, p, plan, stream);
    case 16 * 4 + 2:
      return Launch<Output, 16, 2, ByteCodes>(name, p, plan, stream);
    case 32 * 4 + 1:
      return Launch<Output, 32, 1, ByteCodes>(name, p, plan, stream);
    case 32 * 4 + 2:
      return Launch<Output, 32, 2, ByteCodes>(name, p, plan, stream);
    case 64 * 4 + 1:
      return Launch<Output, 64, 1, ByteCodes>(name, p, plan, stream);
    default:
      return Launch<Output, 64, 2, ByteCodes>(name, p, plan, stream);
  }
}

}  // namespace spikefold::kernels::cuda::few
