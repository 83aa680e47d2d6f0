// Products of 16-bit rows on wgmma, float32 straight from the accumulators: a persistent block a
// multiprocessor, one producer, two consumer warpgroups of 64 rows. sm_90a.
//   Y[m,n] = unit[m] * unit[n] * sum over parts of sum_k x[part][m,k] * w[n,k] + bias[n]
// bf16 has no units; f16 has powers of two, which put the largest values of its rows where f16 is normal. x
// may be several matrices, one below the other: they are multiplied with the same W as if K were so many
// times as long.
#pragma once

#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_walk.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace spikefold::kernels::cuda::half {

enum class Type { kBf16, kF16 };

inline constexpr int kTileM = 128;       // two warpgroups of 64 rows
inline constexpr int kRows = 64;         // of a warpgroup
inline constexpr int kStep = 128;        // bytes of K a stage: one swizzled row
inline constexpr int kStepColumns = 64;  // of 16 bits
inline constexpr int kWarpgroup = 128;   // threads
inline constexpr int kThreads = 3 * kWarpgroup;
inline constexpr int kConsumers = 2;
inline constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // of 65,536 / 384 = 168 at entry

struct Maps {
  CUtensorMap x, w[kMaxLinears];
};
struct Work {
  int m = 0, steps = 0, parts = 0, tiles_m = 0, tiles = 0;
  const float* x_unit = nullptr;  // [m], of f16; of a linear: its w_scale [n]
  LinearGroup linears;
  int64_t y_stride[kMaxLinears] = {};
};

template <int kTileN>
struct Layout {
  static constexpr int kXBytes = kTileM * kStep, kStage = kXBytes + kTileN * kStep;
  static constexpr int kStages = kTileN == 256 ? 4 : 6;
  static constexpr int kBarriers = kStages * kStage;  // full, then empty
  static constexpr int kBytes = kBarriers + Ring::Bytes(kStages);
};

template <Type kType, int kTileN>
__global__ void __launch_bounds__(kThreads, 1)
    half_tiles_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kTileN>;
  constexpr int kAccumulators = kTileN / 2;  // of a thread: 64 x kTileN outputs over 128 threads
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = SharedAddress(shared);
  const Ring ring = {base + L::kBarriers, L::kStages};
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;

  if (threadIdx.x == 0) {
    ring.Init(1, kConsumers);
    FenceBarrierInit();
  }
  __syncthreads();

  if (group == 0) {
    GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) {
      RingPlace place;
      for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
        const Tile tile = TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at);
        for (int part = 0; part < work.parts; ++part) {
          for (int t = 0; t < work.steps; ++t) {
            const uint32_t full = ring.Full(place.stage);
            WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
            ArriveExpecting(full, L::kStage);
            const uint32_t x = base + static_cast<uint32_t>(place.stage * L::kStage), w = x + L::kXBytes;
            LoadBox(x, maps.x, full, t * kStepColumns, tile.m0 + part * work.m);
            LoadBox(w, maps.w[tile.linear], full, t * kStepColumns, tile.n0);
            place.Next(L::kStages);
          }
        }
      }
    }
  } else {
    TakeRegisters<kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int lane = thread % 32, warp = thread / 32;
    RingPlace place;
    for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
      const Tile tile = TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at);
      const Linear& w = work.linears.linear[tile.linear];
      uint32_t acc[kAccumulators];  // bits of f32
      MultiplyStages(ring, place, work.parts * work.steps, thread == 0, [&](int stage, bool first) {
        const uint32_t at_stage = base + static_cast<uint32_t>(stage * L::kStage);
        const uint64_t x_rows = OperandDescriptor(at_stage + consumer * kRows * kStep);
        const uint64_t w_rows = OperandDescriptor(at_stage + L::kXBytes);
#pragma unroll
        for (int k = 0; k < kStep / 32; ++k) {
          if constexpr (kType == Type::kF16) {
            WgmmaF16(acc, x_rows + 2 * k, w_rows + 2 * k, !first || k > 0);
          } else {
            WgmmaBf16(acc, x_rows + 2 * k, w_rows + 2 * k, !first || k > 0);
          }
        }
      });

      const int64_t m = tile.m0 + consumer * kRows + warp * 16 + lane / 4;  // and the row 8 below
      const bool has0 = m < work.m, has1 = m + 8 < work.m;
      const int64_t y_stride = work.y_stride[tile.linear];
      const bool aligned = y_stride % 2 == 0 && reinterpret_cast<uintptr_t>(w.y) % 8 == 0;
      const int column = tile.n0 + 2 * (lane % 4), left = static_cast<int>(w.n) - column;
      float* const y0 = w.y + m * y_stride + column;
      float* const y1 = y0 + 8 * y_stride;
      const float* const bias = w.bias == nullptr ? nullptr : w.bias + column;
      // Twice a power of two, that of the channel first: the sum under both may be beyond float32.
      constexpr bool kUnits = kType == Type::kF16;
      const float unit0 = kUnits && has0 ? work.x_unit[m] : 1.0f;
      const float unit1 = kUnits && has1 ? work.x_unit[m + 8] : 1.0f;
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const bool some = bias != nullptr;
        const float add0 = some && 2 * i < left ? bias[2 * i] : 0.0f;
        const float add1 = some && 2 * i + 1 < left ? bias[2 * i + 1] : 0.0f;
        const float by0 = kUnits && 2 * i < left ? w.w_scale[column + 2 * i] : 1.0f;
        const float by1 = kUnits && 2 * i + 1 < left ? w.w_scale[column + 2 * i + 1] : 1.0f;
        const auto y = [&](int r) {
          float v = __uint_as_float(acc[r]);
          if constexpr (kUnits) v = v * (r % 2 == 0 ? by0 : by1) * (r % 4 < 2 ? unit0 : unit1);
          return some ? v + (r % 2 == 0 ? add0 : add1) : v;
        };
        if (has0) StorePair(y0 + 2 * i, left - 2 * i, aligned, y(i), y(i + 1));
        if (has1) StorePair(y1 + 2 * i, left - 2 * i, aligned, y(i + 2), y(i + 3));
      }
    }
  }
}

inline int64_t Stripes(const LinearGroup& group, int64_t tile_n) {
  int64_t stripes = 0;
  for (int i = 0; i < group.count; ++i) stripes += CeilDiv(group.linear[i].n, tile_n);
  return stripes;
}

// x [parts * m, k] and the linears' w [n, k] in 16 bits.
struct Params {
  const char* name = "";  // of the product, for errors
  int64_t m = 0, k = 0, parts = 1;
  const void* x = nullptr;
  const float* x_unit = nullptr;
  LinearGroup linears;
  int64_t y_stride[kMaxLinears] = {};  // from row to row of a linear's y; 0: its n
};
template <Type kType, int kTileN>
absl::Status LaunchTiles(const Params& p, const DeviceInfo& device, const Stream& stream) {
  using L = Layout<kTileN>;
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, MapOfRows(Element::kBf16, p.x, p.parts * p.m, p.k, kTileM));
  for (int i = 0; i < p.linears.count; ++i) {
    const Linear& w = p.linears.linear[i];
    SF_ASSIGN_OR_RETURN(maps.w[i], MapOfRows(Element::kBf16, w.w, w.n, p.k, kTileN));
  }
  const int64_t tiles_m = CeilDiv(p.m, kTileM), tiles = tiles_m * Stripes(p.linears, kTileN);
  Work work = {.m = static_cast<int>(p.m),
               .steps = static_cast<int>(CeilDiv(p.k, kStepColumns)),
               .parts = static_cast<int>(p.parts),
               .tiles_m = static_cast<int>(tiles_m),
               .tiles = static_cast<int>(tiles),
               .x_unit = p.x_unit,
               .linears = p.linears};
  for (int i = 0; i < p.linears.count; ++i) {
    work.y_stride[i] = p.y_stride[i] > 0 ? p.y_stride[i] : p.linears.linear[i].n;
  }
  return Launch(p.name, half_tiles_sm90<kType, kTileN>,
                {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(tiles, device.num_sms))),
                 .block = dim3(kThreads),
                 .shared_bytes = L::kBytes},
                stream, maps, work);
}

template <Type kType>
absl::Status Run(const Params& p, const DeviceInfo& device, const Stream& stream) {
  const auto rounds = [&](int64_t tile_n) {
    const int64_t tiles = CeilDiv(p.m, kTileM) * Stripes(p.linears, tile_n);
    return static_cast<double>(CeilDiv(tiles, device.num_sms));
  };
  // As with codes: a wide tile takes as long as two narrow ones less 3 %.
  return 2 * rounds(256) <= 1.03 * rounds(128) ? LaunchTiles<kType, 256>(p, device, stream)
                                               : LaunchTiles<kType, 128>(p, device, stream);
}

}  // namespace spikefold::kernels::cuda::half
