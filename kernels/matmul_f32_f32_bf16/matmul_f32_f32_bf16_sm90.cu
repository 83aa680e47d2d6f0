// Design: as matmul_f32_s8r_s8c_sm90.cu (a persistent block a multiprocessor, one producer, two consumer
// warpgroups of 64 rows on wgmma, float32 straight from the accumulators). A pass before it writes x as one
// or two bf16 matrices, one below the other; the second is multiplied with the same W as if K were twice as
// long.
#include <cuda_bf16.h>

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
#include "kernels/matmul_f32_f32_bf16/matmul_f32_f32_bf16_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_bf16 {
namespace {

constexpr int kTileM = 128;       // two warpgroups of 64 rows
constexpr int kRows = 64;         // of a warpgroup
constexpr int kStep = 128;        // bytes of K a stage: one swizzled row
constexpr int kStepColumns = 64;  // of bf16
constexpr int kWarpgroup = 128;   // threads
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kConsumers = 2;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // of 65,536 / 384 = 168 at entry

struct Maps {
  CUtensorMap x, w[cuda::kMaxLinears];
};
struct Work {
  int m = 0, steps = 0, parts = 0, tiles_m = 0, tiles = 0;
  cuda::LinearGroup linears;
};

template <int kTileN>
struct Layout {
  static constexpr int kXBytes = kTileM * kStep, kStage = kXBytes + kTileN * kStep;
  static constexpr int kStages = kTileN == 256 ? 4 : 6;
  static constexpr int kBarriers = kStages * kStage;  // full, then empty
  static constexpr int kBytes = kBarriers + cuda::Ring::Bytes(kStages);
};

template <int kTileN>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_f32_f32_bf16_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kTileN>;
  constexpr int kAccumulators = kTileN / 2;  // of a thread: 64 x kTileN outputs over 128 threads
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = cuda::SharedAddress(shared);
  const cuda::Ring ring = {base + L::kBarriers, L::kStages};
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;

  if (threadIdx.x == 0) {
    ring.Init(1, kConsumers);
    cuda::FenceBarrierInit();
  }
  __syncthreads();

  if (group == 0) {
    cuda::GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) {
      cuda::RingPlace place;
      for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
        const cuda::Tile tile = cuda::TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at);
        for (int part = 0; part < work.parts; ++part) {
          for (int t = 0; t < work.steps; ++t) {
            const uint32_t full = ring.Full(place.stage);
            cuda::WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
            cuda::ArriveExpecting(full, L::kStage);
            const uint32_t x = base + static_cast<uint32_t>(place.stage * L::kStage), w = x + L::kXBytes;
            cuda::LoadBox(x, maps.x, full, t * kStepColumns, tile.m0 + part * work.m);
            cuda::LoadBox(w, maps.w[tile.linear], full, t * kStepColumns, tile.n0);
            place.Next(L::kStages);
          }
        }
      }
    }
  } else {
    cuda::TakeRegisters<kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int lane = thread % 32, warp = thread / 32;
    cuda::RingPlace place;
    for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
      const cuda::Tile tile = cuda::TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at);
      const cuda::Linear& w = work.linears.linear[tile.linear];
      uint32_t acc[kAccumulators];  // bits of f32
      cuda::MultiplyStages(ring, place, work.parts * work.steps, thread == 0, [&](int stage, bool first) {
        const uint32_t at_stage = base + static_cast<uint32_t>(stage * L::kStage);
        const uint64_t x_rows = cuda::OperandDescriptor(at_stage + consumer * kRows * kStep);
        const uint64_t w_rows = cuda::OperandDescriptor(at_stage + L::kXBytes);
#pragma unroll
        for (int k = 0; k < kStep / 32; ++k) {
          cuda::WgmmaBf16(acc, x_rows + 2 * k, w_rows + 2 * k, !first || k > 0);
        }
      });

      const int64_t m = tile.m0 + consumer * kRows + warp * 16 + lane / 4;  // and the row 8 below
      const bool has0 = m < work.m, has1 = m + 8 < work.m, aligned = w.n % 2 == 0;
      const int column = tile.n0 + 2 * (lane % 4), left = static_cast<int>(w.n) - column;
      float* const y0 = w.y + m * w.n + column;
      float* const y1 = y0 + 8 * w.n;
      const float* const bias = w.bias == nullptr ? nullptr : w.bias + column;
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const bool some = bias != nullptr;
        const float add0 = some && 2 * i < left ? bias[2 * i] : 0.0f;
        const float add1 = some && 2 * i + 1 < left ? bias[2 * i + 1] : 0.0f;
        const auto y = [&](int r) {
          const float v = __uint_as_float(acc[r]);
          return some ? v + (r % 2 == 0 ? add0 : add1) : v;
        };
        if (has0) cuda::StorePair(y0 + 2 * i, left - 2 * i, aligned, y(i), y(i + 1));
        if (has1) cuda::StorePair(y1 + 2 * i, left - 2 * i, aligned, y(i + 2), y(i + 3));
      }
    }
  }
}

// Four neighbouring elements a thread.
constexpr int kSplitThreads = 256;
__global__ void __launch_bounds__(kSplitThreads)
    SplitRows(const float* x, int64_t count, bool second, uint16_t* parts) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kSplitThreads + threadIdx.x) * 4;
  if (at >= count) return;
  const float4 v = *reinterpret_cast<const float4*>(x + at);
  const __nv_bfloat162 first[2] = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
  *reinterpret_cast<uint2*>(parts + at) = *reinterpret_cast<const uint2*>(first);
  if (!second) return;
  const float2 a = __bfloat1622float2(first[0]), b = __bfloat1622float2(first[1]);
  const __nv_bfloat162 rest[2] = {__floats2bfloat162_rn(v.x - a.x, v.y - a.y),
                                  __floats2bfloat162_rn(v.z - b.x, v.w - b.y)};
  *reinterpret_cast<uint2*>(parts + count + at) = *reinterpret_cast<const uint2*>(rest);
}

int64_t Stripes(const cuda::LinearGroup& group, int64_t tile_n) {
  int64_t stripes = 0;
  for (int i = 0; i < group.count; ++i) stripes += cuda::CeilDiv(group.linear[i].n, tile_n);
  return stripes;
}

absl::StatusOr<CUtensorMap> MapOf(const void* values, int64_t rows, int64_t k, int64_t box_rows) {
  return cuda::MakeTensorMap({.element = cuda::Element::kBf16,
                              .data = values,
                              .rows = rows,
                              .columns = k,
                              .stride = k * 2,
                              .box_rows = box_rows});
}

template <int kTileN>
absl::Status LaunchTiles(const cuda::SimtParams& p, int parts, const uint16_t* x,
                         const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  using L = Layout<kTileN>;
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, MapOf(x, parts * p.m, p.k, kTileM));
  for (int i = 0; i < p.linears.count; ++i) {
    SF_ASSIGN_OR_RETURN(maps.w[i], MapOf(p.linears.linear[i].w, p.linears.linear[i].n, p.k, kTileN));
  }
  const int64_t tiles_m = cuda::CeilDiv(p.m, kTileM), tiles = tiles_m * Stripes(p.linears, kTileN);
  const Work work = {.m = static_cast<int>(p.m),
                     .steps = static_cast<int>(cuda::CeilDiv(p.k, kStepColumns)),
                     .parts = parts,
                     .tiles_m = static_cast<int>(tiles_m),
                     .tiles = static_cast<int>(tiles),
                     .linears = p.linears};
  return cuda::Launch("matmul_f32_f32_bf16", matmul_f32_f32_bf16_sm90<kTileN>,
                      {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(tiles, device.num_sms))),
                       .block = dim3(kThreads),
                       .shared_bytes = L::kBytes},
                      stream, maps, work);
}

}  // namespace

absl::Status RunHopper(const cuda::SimtParams& p, Rows rows, uint16_t* parts, const cuda::DeviceInfo& device,
                       const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const int64_t count = p.m * p.k;  // a multiple of 8
  SF_RETURN_IF_ERROR(
      cuda::Launch("matmul_f32_f32_bf16", SplitRows,
                   {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(count, kSplitThreads * 4))),
                    .block = dim3(kSplitThreads)},
                   stream, p.x, count, rows == Rows::kExact, parts));
  const auto rounds = [&](int64_t tile_n) {
    const int64_t tiles = cuda::CeilDiv(p.m, kTileM) * Stripes(p.linears, tile_n);
    return static_cast<double>(cuda::CeilDiv(tiles, device.num_sms));
  };
  // As with codes: a wide tile takes as long as two narrow ones less 3 %.
  const int num_parts = static_cast<int>(rows);
  return 2 * rounds(256) <= 1.03 * rounds(128) ? LaunchTiles<256>(p, num_parts, parts, device, stream)
                                               : LaunchTiles<128>(p, num_parts, parts, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_bf16
