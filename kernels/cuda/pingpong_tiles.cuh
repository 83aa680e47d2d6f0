// Products of many rows on wgmma. sm_90a.
//   Y[m,n] = sum_k x[m,k] * w[n,k] * scales + sum_c kept_x[m,c] * kept_w[n,c] + bias[n]
// A persistent block a multiprocessor: one producer warp fills a ring of stages through the copy engine, and
// two warpgroups take whole tiles of outputs by turns ("ping-pong"): while one scales and stores its tile,
// the other has the tensor cores. Tiles of 256 channels they make together, 64 rows each.
//
// Kept columns are rows of 64 bf16, byte for byte the box, swizzle and stage of 128 codes: they follow in the
// same ring, and bf16 wgmma adds them to the scaled sums in registers.
// 16-bit x may be several matrices (parts), one below the other: they are multiplied with the same W as if K
// were so many times as long.
#pragma once

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_walk.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace spikefold::kernels::cuda::pingpong {

// x and W. INT8 codes have a scale a row and a channel, in this order; f16 has powers of two, the channel's
// first, because the sum under both may be beyond float32; bf16 has none.
enum class Type { kS8, kBf16, kF16 };

inline constexpr int kKeptStep = 64;    // kept columns a stage
inline constexpr int kRows = 64;        // of an instruction
inline constexpr int kWarpgroup = 128;  // threads
inline constexpr int kConsumers = 2;
inline constexpr int kThreads = (1 + kConsumers) * kWarpgroup;
inline constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // of 65,536 / 384 = 168 at entry
inline constexpr int kMaxShared = 227 << 10;                             // of a block
inline constexpr int kStoreBytes = kRows * kStep;                        // a box of 64 x 64 bf16 outputs

struct Maps {
  CUtensorMap x, kept_x, w[kMaxLinears], kept_w[kMaxLinears];
  CUtensorMap y;  // of bf16 outputs, which are of one linear
};
struct Work {
  int m = 0, steps = 0, parts = 0;
  int kept_steps = 0;  // of linears that keep columns
  int tiles_m = 0, tiles = 0;
  const float* x_scale = nullptr;
  LinearGroup linears;
  int64_t y_stride[kMaxLinears] = {};
};

// Whether the warpgroups take tiles by turns.
template <int kTileN>
inline constexpr bool kByTurns = kTileN < 256;

template <typename Out, int kTileM, int kTileN>
struct Layout {
  static constexpr int kXBytes = kTileM * kStep, kStage = kXBytes + kTileN * kStep;
  static constexpr bool kStores = std::is_same_v<Out, __nv_bfloat16>;  // through the copy engine
  // Of each consumer: 64 rows of bf16 outputs on their way; the scales and the bias of a tile's channels.
  static constexpr int kStoreOf = kStores ? kTileN / 64 * kStoreBytes : 0, kColumnsOf = 2 * kTileN * 4;
  static constexpr int kRest = kConsumers * (kStoreOf + kColumnsOf);
  static constexpr int kStages = (kMaxShared - kRest - Ring::Bytes(16)) / kStage;
  static constexpr int kStore = kStages * kStage, kColumns = kStore + kConsumers * kStoreOf;
  static constexpr int kBarriers = kColumns + kConsumers * kColumnsOf;  // full, then empty
  static constexpr int kBytes = kBarriers + Ring::Bytes(kStages);
  static_assert(kStages >= 4 && kStages <= 16 && kBytes <= kMaxShared);
};

__device__ inline uint32_t PackBf16(uint32_t low, uint32_t high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(__uint_as_float(low), __uint_as_float(high));
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// By a warpgroup: multiplies `steps` stages from `at` on. multiply(stage, first) starts the wgmmas of one; at
// most one group is under way, and a stage is given back, by release(stage), when the next one's
// multiplications have been started. all_started() is called before the last ones are waited for.
template <typename Multiply, typename AllStarted, typename Release>
__device__ inline void MultiplyStages(const Ring& ring, RingPlace& at, int steps, Multiply multiply,
                                      AllStarted all_started, Release release) {
  int previous = -1;
  for (int t = 0; t < steps; ++t) {
    WaitBarrier(ring.Full(at.stage), at.phase);
    WarpgroupFence();
    multiply(at.stage, t == 0);
    WarpgroupCommit();
    if (previous >= 0) {
      WarpgroupWait<1>();
      release(previous);
    }
    previous = at.stage;
    at.Next(ring.stages);
  }
  all_started();
  WarpgroupWait<0>();
  if (previous >= 0) release(previous);
}

template <Type kType, typename Out, int kTileM, int kTileN>
__global__ void __launch_bounds__(kThreads, 1)
    pingpong_tiles_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using L = Layout<Out, kTileM, kTileN>;
  constexpr bool kTurns = kByTurns<kTileN>;
  constexpr int kTileRows = kTurns ? kTileM : kTileM / kConsumers;        // of a warpgroup
  constexpr int kBlocks = kTileRows / kRows, kAccumulators = kTileN / 2;  // of a thread: [][]
  constexpr bool kCodes = kType == Type::kS8;
  constexpr int kStepElements = kCodes ? kStep : kStep / 2;
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = SharedAddress(shared);
  const Ring ring = {base + L::kBarriers, L::kStages};
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const int blocks = static_cast<int>(gridDim.x);

  if (threadIdx.x == 0) {
    ring.Init(1, kTurns ? 1 : kConsumers);
    FenceBarrierInit();
  }
  __syncthreads();
  const auto tile_at = [&](int at) { return TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at); };
  const auto kept_steps_of = [&](const Tile& tile) {
    return kCodes && work.linears.linear[tile.linear].kept_w != nullptr ? work.kept_steps : 0;
  };

  if (group == 0) {
    GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) {
      RingPlace place;
      for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += blocks) {
        const Tile tile = tile_at(at);
        const auto load = [&](const CUtensorMap& x_map, int row, const CUtensorMap& w_map, int column) {
          const uint32_t full = ring.Full(place.stage);
          WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
          ArriveExpecting(full, L::kStage);
          const uint32_t x = base + static_cast<uint32_t>(place.stage * L::kStage), w = x + L::kXBytes;
          LoadBox(x, x_map, full, column, row);
          LoadBox(w, w_map, full, column, tile.n0);
          place.Next(L::kStages);
        };
        for (int part = 0; part < work.parts; ++part) {
          for (int t = 0; t < work.steps; ++t) {
            load(maps.x, tile.m0 + part * work.m, maps.w[tile.linear], t * kStepElements);
          }
        }
        const int kept_steps = kept_steps_of(tile);
        for (int t = 0; t < kept_steps; ++t) {
          load(maps.kept_x, tile.m0, maps.kept_w[tile.linear], t * kKeptStep);
        }
      }
    }
  } else {
    TakeRegisters<kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int lane = thread % kWarp, warp = thread / kWarp;
    const auto barrier = [&] { NamedBarrier(4 + consumer, kWarpgroup); };
    float* const columns = reinterpret_cast<float*>(shared + L::kColumns + consumer * L::kColumnsOf);
    const uint32_t store = base + L::kStore + static_cast<uint32_t>(consumer * L::kStoreOf);
    // Where this lane's row of the 8x8 matrices of columns 0-7 (lanes 0-15) or 8-15 begins; two blocks
    // further it is the XOR of the chunk number with the block number.
    const int lane_row = warp * 16 + lane % 16;
    const uint32_t line =
        store + static_cast<uint32_t>(lane_row * kStep + ((lane / 16) ^ (lane_row % 8)) * 16);
    const auto release = [&](int stage) {
      if (thread == 0) Arrive(ring.Empty(stage));
    };
    RingPlace place;
    bool mine = !kTurns || consumer == 0;
    for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += blocks, mine = !kTurns || !mine) {
      Tile tile = tile_at(at);
      if (!kTurns) tile.m0 += consumer * kTileRows;
      const int code_steps = work.parts * work.steps, kept_steps = kept_steps_of(tile);
      if (!mine) {
        place.Skip(code_steps + kept_steps, L::kStages);
        continue;
      }
      const Linear& w = work.linears.linear[tile.linear];
      const bool has_bias = w.bias != nullptr;
      barrier();  // the columns of the tile before have been used
      for (int i = thread; i < kTileN; i += kWarpgroup) {
        const bool inside = tile.n0 + i < w.n;
        if constexpr (kType != Type::kBf16) columns[i] = inside ? w.w_scale[tile.n0 + i] : 0.0f;
        columns[kTileN + i] = inside && has_bias ? w.bias[tile.n0 + i] : 0.0f;
      }
      barrier();
      // Row 0 or 1 of block b: 8 apart.
      const auto row_of = [&](int b, int which) {
        return static_cast<int64_t>(tile.m0 + b * kRows + warp * 16 + lane / 4 + which * 8);
      };
      const auto has = [&](int b, int which) { return row_of(b, which) < work.m; };
      float row_scale[kBlocks][2] = {};  // read here, where nothing waits for it
      if constexpr (kType != Type::kBf16) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
          for (int which = 0; which < 2; ++which) {
            if (has(b, which)) row_scale[b][which] = work.x_scale[row_of(b, which)];
          }
        }
      }

      // A turn begins when the other warpgroup has seen all of its stages full: who waits for a phase of a
      // barrier must not come before the phase before has ended.
      if (kTurns && at >= blocks) NamedBarrier(2 + consumer, kConsumers * kWarpgroup);
      const auto end_turn = [&] {
        if (kTurns && at + blocks < work.tiles) NamedBarrierArrive(3 - consumer, kConsumers * kWarpgroup);
      };
      uint32_t acc[kBlocks][kAccumulators];  // sums, then outputs
      const auto run_stages = [&](int steps, auto multiply, auto all_started) {
        MultiplyStages(
            ring, place, steps,
            [&](int stage, bool first) {
              const uint32_t at_stage = base + static_cast<uint32_t>(stage * L::kStage);
              const uint64_t x_rows =
                  OperandDescriptor(at_stage + (kTurns ? 0 : consumer * kTileRows * kStep));
              const uint64_t w_rows = OperandDescriptor(at_stage + L::kXBytes);
#pragma unroll
              for (int k = 0; k < kStep / 32; ++k) {
#pragma unroll
                for (int b = 0; b < kBlocks; ++b) {
                  multiply(acc[b], x_rows + b * (kRows * kStep / 16) + 2 * k, w_rows + 2 * k,
                           !first || k > 0);
                }
              }
            },
            all_started, release);
      };
      // Kept columns come behind the codes in the ring: as long as they have room there beside the last
      // codes, they need not be multiplied before the turn ends.
      const bool kept_fit = kept_steps < L::kStages;
      run_stages(
          code_steps,
          [](uint32_t(&d)[kAccumulators], uint64_t x, uint64_t w_rows, bool add) {
            if constexpr (kType == Type::kS8) WgmmaS8(d, x, w_rows, add);
            if constexpr (kType == Type::kBf16) WgmmaBf16(d, x, w_rows, add);
            if constexpr (kType == Type::kF16) WgmmaF16(d, x, w_rows, add);
          },
          [&] {
            if (!kTurns || !kept_fit) return;
            RingPlace ahead = place;
            for (int t = 0; t < kept_steps; ++t) {
              WaitBarrier(ring.Full(ahead.stage), ahead.phase);
              ahead.Next(L::kStages);
            }
            end_turn();
          });

      const int lane_column = 2 * (lane % 4), left = static_cast<int>(w.n) - tile.n0 - lane_column;
      const int64_t y_stride = work.y_stride[tile.linear];
      if constexpr (kCodes) {
        if (w.sums != nullptr) {
#pragma unroll
          for (int b = 0; b < kBlocks; ++b) {
            const bool aligned = w.n % 2 == 0;
            int32_t* const to = w.sums + row_of(b, 0) * w.n + tile.n0 + lane_column;
#pragma unroll
            for (int i = 0; i < kAccumulators; i += 4) {
              const auto sum = [&](int r) { return static_cast<int32_t>(acc[b][r]); };
              if (has(b, 0)) StorePair(to + 2 * i, left - 2 * i, aligned, sum(i), sum(i + 1));
              if (has(b, 1)) StorePair(to + 8 * w.n + 2 * i, left - 2 * i, aligned, sum(i + 2), sum(i + 3));
            }
          }
        }
      }
      if constexpr (kType != Type::kBf16) {
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) {
          const float(&scale)[2] = row_scale[b];
#pragma unroll
          for (int i = 0; i < kAccumulators; i += 4) {
            const float2 by = *reinterpret_cast<const float2*>(columns + lane_column + 2 * i);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              uint32_t& a = acc[b][i + e];
              const float column = e % 2 == 0 ? by.x : by.y;
              a = __float_as_uint(kCodes ? static_cast<float>(static_cast<int32_t>(a)) * scale[e / 2] * column
                                         : __uint_as_float(a) * column * scale[e / 2]);
            }
            if (i % 16 == 12) CompilerFence();
          }
        }
      }
      if constexpr (kCodes) {
        if (kept_steps > 0) {
          run_stages(
              kept_steps,
              [](uint32_t(&d)[kAccumulators], uint64_t x, uint64_t w_rows, bool) {
                WgmmaBf16(d, x, w_rows, true);
              },
              [&] {
                if (!kept_fit) end_turn();
              });
        }
      }

      // The bias is added on the way out: registers that wgmma accumulates in are not written again.
      const auto y = [&](int b, int r, float2 add) {
        const float v = __uint_as_float(acc[b][r]);
        return has_bias ? v + (r % 2 == 0 ? add.x : add.y) : v;
      };
      const auto bias_at = [&](int i) {
        return *reinterpret_cast<const float2*>(columns + kTileN + lane_column + 2 * i);
      };
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        if constexpr (L::kStores) {
          if (thread == 0) WaitStoresRead();  // the buffer is free
          barrier();
#pragma unroll
          for (int i = 0; i < kAccumulators; i += 8) {  // 16 columns
            const float2 add0 = bias_at(i), add1 = bias_at(i + 4);
            const auto pair = [&](int r, float2 add) {
              return PackBf16(__float_as_uint(y(b, r, add)), __float_as_uint(y(b, r + 1, add)));
            };
            StoreMatrices((line ^ static_cast<uint32_t>(i / 4 % 8 * 16)) + i / 32 * kStoreBytes,
                          pair(i, add0), pair(i + 2, add0), pair(i + 4, add1), pair(i + 6, add1));
          }
          FenceToCopyEngine();
          barrier();
          if (thread == 0) {
#pragma unroll
            for (int box = 0; box < kTileN / 64; ++box) {
              StoreBox(maps.y, store + box * kStoreBytes, tile.n0 + box * 64, tile.m0 + b * kRows);
            }
            CommitStores();
          }
        } else {
          float* const to = w.y + row_of(b, 0) * y_stride + tile.n0 + lane_column;
          const bool aligned = y_stride % 2 == 0 && reinterpret_cast<uintptr_t>(w.y) % 8 == 0;
#pragma unroll
          for (int i = 0; i < kAccumulators; i += 4) {
            const float2 add = bias_at(i);
            if (has(b, 0)) StorePair(to + 2 * i, left - 2 * i, aligned, y(b, i, add), y(b, i + 1, add));
            if (has(b, 1)) {
              StorePair(to + 8 * y_stride + 2 * i, left - 2 * i, aligned, y(b, i + 2, add), y(b, i + 3, add));
            }
          }
        }
      }
    }
    if (L::kStores && thread == 0) WaitStores();
  }
}

// x [parts * m, row_bytes] and the linears' w [n, row_bytes], rows one after the other, a multiple of 16
// bytes.
struct Params {
  const char* name = "";  // of the product, for errors
  int64_t m = 0, row_bytes = 0, parts = 1;
  const void* x = nullptr;
  const float* x_scale = nullptr;      // [m]; null for bf16. Of a linear: its w_scale [n]
  int64_t num_kept = 0;                // of codes; columns of the linears' kept_rows, a multiple of 64
  const uint16_t* kept_x = nullptr;    // [m, num_kept]
  LinearGroup linears;                 // y: of Out
  int64_t y_stride[kMaxLinears] = {};  // from row to row of a linear's y, of floats only; 0: its n
};

template <Type kType, typename Out, int kTileM, int kTileN>
absl::Status Launch(const Params& p, const DeviceInfo& device, const Stream& stream) {
  using L = Layout<Out, kTileM, kTileN>;
  constexpr Element kElement = kType == Type::kS8 ? Element::kByte : Element::kBf16;
  const int64_t columns = kType == Type::kS8 ? p.row_bytes : p.row_bytes / 2;
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, MapOfRows(kElement, p.x, p.parts * p.m, columns, kTileM));
  if (p.num_kept > 0) {
    SF_ASSIGN_OR_RETURN(maps.kept_x, MapOfRows(Element::kBf16, p.kept_x, p.m, p.num_kept, kTileM));
  }
  Work work = {.m = static_cast<int>(p.m),
               .steps = static_cast<int>(CeilDiv(p.row_bytes, kStep)),
               .parts = static_cast<int>(p.parts),
               .kept_steps = static_cast<int>(p.num_kept / kKeptStep),
               .tiles_m = static_cast<int>(CeilDiv(p.m, kTileM)),
               .x_scale = p.x_scale,
               .linears = p.linears};
  for (int i = 0; i < p.linears.count; ++i) {
    const Linear& w = p.linears.linear[i];
    SF_ASSIGN_OR_RETURN(maps.w[i], MapOfRows(kElement, w.w, w.n, columns, kTileN));
    if (w.kept_w != nullptr && p.num_kept > 0) {
      SF_ASSIGN_OR_RETURN(maps.kept_w[i], MapOfRows(Element::kBf16, w.kept_rows, w.n, p.num_kept, kTileN));
    }
    work.tiles += work.tiles_m * static_cast<int>(CeilDiv(w.n, kTileN));
    work.y_stride[i] = p.y_stride[i] > 0 ? p.y_stride[i] : w.n;
  }
  if constexpr (L::kStores) {
    SF_ASSIGN_OR_RETURN(maps.y,
                        MapOfRows(Element::kBf16, p.linears.linear[0].y, p.m, p.linears.linear[0].n, kRows));
  }
  return cuda::Launch(p.name, pingpong_tiles_sm90<kType, Out, kTileM, kTileN>,
                      {.grid = dim3(static_cast<unsigned>(std::min(work.tiles, device.num_sms))),
                       .block = dim3(kThreads),
                       .shared_bytes = L::kBytes},
                      stream, maps, work);
}

template <Type kType, typename Out>
absl::Status Run(const Params& p, Plan plan, const DeviceInfo& device, const Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  if (plan.tile_m == 0) {
    plan = PlanOf({.m = p.m,
                   .linears = p.linears,
                   .steps = p.parts * CeilDiv(p.row_bytes, kStep),
                   .codes = kType == Type::kS8,
                   .wide = std::is_same_v<Out, float>},
                  device.num_sms);
  }
  const auto is = [&](int tile_m, int tile_n) { return plan.tile_m == tile_m && plan.tile_n == tile_n; };
  if constexpr (std::is_same_v<Out, float>) {
    if (is(128, 256)) return Launch<kType, Out, 128, 256>(p, device, stream);
  }
  if (is(128, 128)) return Launch<kType, Out, 128, 128>(p, device, stream);
  if (is(64, 128)) return Launch<kType, Out, 64, 128>(p, device, stream);
  if (is(64, 64)) return Launch<kType, Out, 64, 64>(p, device, stream);
  return absl::InvalidArgumentError(
      absl::StrCat(p.name, ": no tiles of ", plan.tile_m, " x ", plan.tile_n, " for these outputs"));
}

}  // namespace spikefold::kernels::cuda::pingpong
