// Design: a persistent block a multiprocessor, one producer, two consumer warpgroups of 64 channels each, W
// on the left of wgmma as for few rows: INT8 codes are made from nibbles in registers while the stage before
// is multiplied, which takes a tenth of the time that the tensor cores need for 256 rows. x, 256 rows of it,
// is the right operand. Outputs are scaled in registers and leave transposed, 8 channels of a row at a time.
// Kept columns follow in the same ring, x in one stage and W in the next; bf16 wgmma adds them as in
// matmul_f32_s8r_s8c_sm90.cu.
#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_walk.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_tiles.cuh"

namespace spikefold::kernels::matmul_f32_s8r_u4h {
namespace {

constexpr int kStep = 128;       // columns of K a stage
constexpr int kWarpgroup = 128;  // threads
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kConsumers = 2;
constexpr int kChannels = 64;  // of a warpgroup
constexpr int kTileN = kConsumers * kChannels;
constexpr int kKeptStep = static_cast<int>(matmul_f32_s8r_s8c::kKeptStep);
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // of 65,536 / 384 = 168 at entry

struct Maps {
  CUtensorMap x, kept_x, kept_w[cuda::kMaxLinears];
};
struct Work {
  int m = 0, steps = 0, tiles_m = 0, tiles = 0;
  int kept_steps = 0;  // of linears that keep columns
  const float* x_scale = nullptr;
  cuda::LinearGroup linears;
};

// Of kTileM rows of x.
template <int kTileM>
struct Layout {
  static constexpr int kXBytes = kTileM * kStep;
  static constexpr int kStage = (kXBytes + kConsumers * static_cast<int>(kTileBytes) + 1023) / 1024 * 1024;
  static constexpr int kStages = kTileM == 256 ? 5 : 8;
  static constexpr int kScales = kStages * kStage;                     // of each consumer: x_scale [kTileM]
  static constexpr int kBarriers = kScales + kConsumers * kTileM * 4;  // full, then empty
  static constexpr int kBytes = kBarriers + cuda::Ring::Bytes(kStages);
  static_assert(kTileN * kStep <= kStage);  // kept columns of W
};

template <int kTileM>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_f32_s8r_u4h_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kTileM>;
  constexpr int kAccumulators = kTileM / 2;  // of a thread: 64 x kTileM outputs over 128 threads
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = cuda::SharedAddress(shared);
  const cuda::Ring ring = {base + L::kBarriers, L::kStages};
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;

  if (threadIdx.x == 0) {
    ring.Init(1, kConsumers * 4);
    cuda::FenceBarrierInit();
  }
  __syncthreads();
  cuda::RingPlace place;

  if (group == 0) {
    cuda::GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) {
      for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
        const cuda::Tile tile = cuda::TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at);
        const cuda::Linear& w = work.linears.linear[tile.linear];
        const int w_bytes = TileBytes<kConsumers>(w, tile.n0);
        for (int t = 0; t < work.steps; ++t) {
          const uint32_t full = ring.Full(place.stage);
          cuda::WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
          cuda::ArriveExpecting(full, L::kXBytes + w_bytes);
          const uint32_t to = base + static_cast<uint32_t>(place.stage * L::kStage);
          cuda::LoadBox(to, maps.x, full, t * kStep, tile.m0);
          LoadTiles<kConsumers>(w, tile.n0, t, to + L::kXBytes, full);
          place.Next(L::kStages);
        }
        const int kept_steps = w.kept_w != nullptr ? work.kept_steps : 0;
        for (int u = 0; u < 2 * kept_steps; ++u) {  // x, W, x, W, ...
          const uint32_t full = ring.Full(place.stage);
          cuda::WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
          const uint32_t to = base + static_cast<uint32_t>(place.stage * L::kStage);
          const int column = u / 2 * kKeptStep;
          if (u % 2 == 0) {
            cuda::ArriveExpecting(full, L::kXBytes);
            cuda::LoadBox(to, maps.kept_x, full, column, tile.m0);
          } else {
            cuda::ArriveExpecting(full, kTileN * kStep);
            cuda::LoadBox(to, maps.kept_w[tile.linear], full, column, tile.n0);
          }
          place.Next(L::kStages);
        }
      }
    }
  } else {
    cuda::TakeRegisters<kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int lane = thread % 32, warp = thread / 32;
    float* const x_scale = reinterpret_cast<float*>(shared + L::kScales) + consumer * kTileM;
    const auto release = [&](int s) {
      if (lane == 0) cuda::Arrive(ring.Empty(s));
    };

    for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
      const cuda::Tile tile = cuda::TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at);
      const cuda::Linear& w = work.linears.linear[tile.linear];
      uint32_t acc[kAccumulators];  // sums, then outputs
      Operands halves[2];
      for (int t = 0; t < work.steps; ++t) {
        cuda::WaitBarrier(ring.Full(place.stage), place.phase);
        const char* const w_tile = shared + place.stage * L::kStage + L::kXBytes + consumer * kTileBytes;
        const uint64_t x = cuda::OperandDescriptor(base + place.stage * L::kStage);
        MultiplyHalf<false>(acc, halves[0], w_tile, 0, x, t > 0);
        cuda::WarpgroupCommit();
        if (t > 0) {
          cuda::WarpgroupWait<1>();
          release(place.stage == 0 ? L::kStages - 1 : place.stage - 1);
        }
        MultiplyHalf<false>(acc, halves[1], w_tile, 1, x, true);
        cuda::WarpgroupCommit();
        cuda::WarpgroupWait<1>();
        place.Next(L::kStages);
      }
      cuda::WarpgroupWait<0>();
      release(place.stage == 0 ? L::kStages - 1 : place.stage - 1);

      cuda::NamedBarrier(2 + consumer, kWarpgroup);  // the scales of the tile before have been used
      for (int i = thread; i < kTileM; i += kWarpgroup) {
        x_scale[i] = tile.m0 + i < work.m ? work.x_scale[tile.m0 + i] : 0.0f;
      }
      cuda::NamedBarrier(2 + consumer, kWarpgroup);
      // Accumulator 4 i + e: channel n + 8 (e / 2), row m + 8 i + e % 2.
      const int n = tile.n0 + consumer * kChannels + warp * 16 + lane / 4, row = 2 * (lane % 4);
      const int m = tile.m0 + row;
      const bool has[2] = {n < w.n, n + 8 < w.n};
      float w_scale[2], bias[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        w_scale[j] = has[j] ? w.w_scale[n + 8 * j] : 0.0f;
        bias[j] = has[j] && w.bias != nullptr ? w.bias[n + 8 * j] : 0.0f;
      }
      const int64_t first = static_cast<int64_t>(m) * w.n + n;
      if (w.sums != nullptr) {
#pragma unroll
        for (int i = 0; i < kAccumulators; ++i) {
          const int down = i / 4 * 8 + i % 2, j = i % 4 / 2;
          if (m + down < work.m && has[j]) {
            w.sums[first + down * w.n + 8 * j] = static_cast<int32_t>(acc[i]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const float2 by = *reinterpret_cast<const float2*>(x_scale + row + 2 * i);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float sum = static_cast<float>(static_cast<int32_t>(acc[i + e]));
          acc[i + e] = __float_as_uint(sum * (e % 2 == 0 ? by.x : by.y) * w_scale[e / 2]);
        }
        if (i % 16 == 12) cuda::CompilerFence();
      }
      const int kept_steps = w.kept_w != nullptr ? work.kept_steps : 0;
      for (int u = 0; u < kept_steps; ++u) {
        cuda::WaitBarrier(ring.Full(place.stage), place.phase);
        const int x_stage = place.stage;
        place.Next(L::kStages);
        cuda::WaitBarrier(ring.Full(place.stage), place.phase);
        const uint64_t x = cuda::OperandDescriptor(base + x_stage * L::kStage);
        const uint64_t kept_w =
            cuda::OperandDescriptor(base + place.stage * L::kStage + consumer * kChannels * kStep);
        cuda::WarpgroupFence();
#pragma unroll
        for (int k = 0; k < kKeptStep / 16; ++k) cuda::WgmmaBf16(acc, kept_w + 2 * k, x + 2 * k);
        cuda::WarpgroupCommit();
        cuda::WarpgroupWait<0>();
        release(x_stage);
        release(place.stage);
        place.Next(L::kStages);
      }
      // The bias is added on the way out: registers that wgmma accumulates in are not written again.
      const bool has_bias = w.bias != nullptr;
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) {
        const int down = i / 4 * 8 + i % 2, j = i % 4 / 2;
        const float y = __uint_as_float(acc[i]);
        if (m + down < work.m && has[j]) w.y[first + down * w.n + 8 * j] = has_bias ? y + bias[j] : y;
      }
    }
  }
}

int64_t Stripes(const cuda::LinearGroup& group) {
  int64_t stripes = 0;
  for (int i = 0; i < group.count; ++i) stripes += cuda::CeilDiv(group.linear[i].n, kTileN);
  return stripes;
}

template <int kTileM>
absl::Status LaunchTiles(const Params& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  const int64_t row_bytes = matmul_f32_s8r_s8c::RowBytes(p.k);
  const int64_t kept = matmul_f32_s8r_s8c::KeptColumns(p.num_kept);
  const auto kept_map = [&](const void* values, int64_t rows, int64_t box_rows) {
    return cuda::MapOfRows(cuda::Element::kBf16, values, rows, kept, box_rows);
  };
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, cuda::MakeTensorMap({.element = cuda::Element::kByte,
                                                   .data = p.x,
                                                   .rows = p.m,
                                                   .columns = row_bytes,
                                                   .stride = row_bytes,
                                                   .box_rows = kTileM}));
  if (kept > 0) {
    SF_ASSIGN_OR_RETURN(maps.kept_x, kept_map(p.kept_rows, p.m, kTileM));
  }
  for (int i = 0; i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    if (w.kept_w == nullptr || kept == 0) continue;
    SF_ASSIGN_OR_RETURN(maps.kept_w[i], kept_map(w.kept_rows, w.n, kTileN));
  }
  const int64_t tiles_m = cuda::CeilDiv(p.m, kTileM), tiles = tiles_m * Stripes(p.linears);
  const Work work = {.m = static_cast<int>(p.m),
                     .steps = static_cast<int>(cuda::CeilDiv(row_bytes, kStep)),
                     .tiles_m = static_cast<int>(tiles_m),
                     .tiles = static_cast<int>(tiles),
                     .kept_steps = static_cast<int>(kept / kKeptStep),
                     .x_scale = p.x_scale,
                     .linears = p.linears};
  return cuda::Launch("matmul_f32_s8r_u4h", matmul_f32_s8r_u4h_sm90<kTileM>,
                      {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(tiles, device.num_sms))),
                       .block = dim3(kThreads),
                       .shared_bytes = Layout<kTileM>::kBytes},
                      stream, maps, work);
}

}  // namespace

// As matmul_f32_s8r_s8c: a tall tile takes as long as two low ones less 3 %, and the last round should leave
// no multiprocessor without work.
absl::Status RunMany(const Params& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const auto rounds = [&](int64_t tile_m) {
    const int64_t tiles = cuda::CeilDiv(p.m, tile_m) * Stripes(p.linears);
    return static_cast<double>(cuda::CeilDiv(tiles, device.num_sms));
  };
  return 2 * rounds(256) <= 1.03 * rounds(128) ? LaunchTiles<256>(p, device, stream)
                                               : LaunchTiles<128>(p, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_u4h
