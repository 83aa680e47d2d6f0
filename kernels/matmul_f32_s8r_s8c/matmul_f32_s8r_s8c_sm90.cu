// Design: as matmul_bf16_s8r_s8c_sm90.cu (a persistent block a multiprocessor, one producer, two consumer
// warpgroups of 64 rows on wgmma), but float32 leaves the block, made in the CPU's order of roundings. Kept
// columns follow the codes in the same ring, 64 bf16 columns a stage, and bf16 wgmma adds them to the scaled
// sums in registers: all 64 products of an output in an order of the tensor core's own.
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
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

constexpr int kTileM = 128;      // two warpgroups of 64 rows
constexpr int kRows = 64;        // of a warpgroup
constexpr int kStep = 128;       // bytes of K a stage: one swizzled row
constexpr int kWarpgroup = 128;  // threads
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kConsumers = 2;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // of 65,536 / 384 = 168 at entry

struct Maps {
  CUtensorMap x, kept_x, w[cuda::kMaxLinears], kept_w[cuda::kMaxLinears];
};
struct Work {
  int m = 0, steps = 0, tiles_m = 0, tiles = 0;
  int kept_steps = 0;  // of linears that keep columns
  const float* x_scale = nullptr;
  cuda::LinearGroup linears;
};

template <int kTileN>
struct Layout {
  static constexpr int kXBytes = kTileM * kStep, kStage = kXBytes + kTileN * kStep;
  static constexpr int kStages = kTileN == 256 ? 4 : 6;
  // Of each consumer: w_scale and bias f32 [kTileN].
  static constexpr int kColumns = kStages * kStage, kColumnBytes = 2 * kTileN * 4;
  static constexpr int kBarriers = kColumns + kConsumers * kColumnBytes;  // full, then empty
  static constexpr int kBytes = kBarriers + cuda::Ring::Bytes(kStages);
};

template <int kTileN>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_f32_s8r_s8c_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
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
        const bool keeps = work.linears.linear[tile.linear].kept_w != nullptr;
        for (int t = 0; t < work.steps + (keeps ? work.kept_steps : 0); ++t) {
          const uint32_t full = ring.Full(place.stage);
          cuda::WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
          cuda::ArriveExpecting(full, L::kStage);
          const uint32_t x = base + static_cast<uint32_t>(place.stage * L::kStage), w = x + L::kXBytes;
          if (t < work.steps) {
            cuda::LoadBox(x, maps.x, full, t * kStep, tile.m0);
            cuda::LoadBox(w, maps.w[tile.linear], full, t * kStep, tile.n0);
          } else {
            const int column = (t - work.steps) * static_cast<int>(kKeptStep);
            cuda::LoadBox(x, maps.kept_x, full, column, tile.m0);
            cuda::LoadBox(w, maps.kept_w[tile.linear], full, column, tile.n0);
          }
          place.Next(L::kStages);
        }
      }
    }
  } else {
    cuda::TakeRegisters<kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int lane = thread % 32, warp = thread / 32;
    float* const columns =
        reinterpret_cast<float*>(shared + L::kColumns + consumer * L::kColumnBytes);  // w_scale, then bias
    const int row_in_group = warp * 16 + lane / 4;                                    // and the row 8 below
    cuda::RingPlace place;
    // `multiply(x, w, first)` starts the wgmmas of a stage.
    const auto run_stages = [&](int steps, auto multiply) {
      cuda::MultiplyStages(ring, place, steps, thread == 0, [&](int stage, bool first) {
        const uint32_t at = base + static_cast<uint32_t>(stage * L::kStage);
        multiply(cuda::OperandDescriptor(at + consumer * kRows * kStep),
                 cuda::OperandDescriptor(at + L::kXBytes), first);
      });
    };

    for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
      const cuda::Tile tile = cuda::TileAt<kTileM, kTileN>(work.linears, work.tiles_m, at);
      const cuda::Linear& w = work.linears.linear[tile.linear];
      const int m0 = tile.m0 + consumer * kRows;
      uint32_t acc[kAccumulators];  // sums, then outputs
      run_stages(work.steps, [&](uint64_t x_codes, uint64_t w_codes, bool first) {
#pragma unroll
        for (int k = 0; k < kStep / 32; ++k) {
          cuda::WgmmaS8(acc, x_codes + 2 * k, w_codes + 2 * k, !first || k > 0);
        }
      });

      cuda::NamedBarrier(2 + consumer, kWarpgroup);  // the columns of the tile before have been used
      for (int i = thread; i < kTileN; i += kWarpgroup) {
        const bool inside = tile.n0 + i < w.n;
        columns[i] = inside ? w.w_scale[tile.n0 + i] : 0.0f;
        columns[kTileN + i] = inside && w.bias != nullptr ? w.bias[tile.n0 + i] : 0.0f;
      }
      cuda::NamedBarrier(2 + consumer, kWarpgroup);
      const int64_t m = m0 + row_in_group;
      const bool has0 = m < work.m, has1 = m + 8 < work.m, aligned = w.n % 2 == 0;
      const float scale0 = has0 ? work.x_scale[m] : 0.0f, scale1 = has1 ? work.x_scale[m + 8] : 0.0f;
      const int lane_column = 2 * (lane % 4), left = static_cast<int>(w.n) - tile.n0 - lane_column;
      const int64_t at0 = m * w.n + tile.n0 + lane_column, at1 = at0 + 8 * w.n;
      if (w.sums != nullptr) {
#pragma unroll
        for (int i = 0; i < kAccumulators; i += 4) {
          const auto sum = [&](int r) { return static_cast<int32_t>(acc[r]); };
          if (has0) cuda::StorePair(w.sums + at0 + 2 * i, left - 2 * i, aligned, sum(i), sum(i + 1));
          if (has1) cuda::StorePair(w.sums + at1 + 2 * i, left - 2 * i, aligned, sum(i + 2), sum(i + 3));
        }
      }
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const float2 by = *reinterpret_cast<const float2*>(columns + lane_column + 2 * i);
        const auto scale_in_place = [&](uint32_t& a, float x_scale, float w_scale) {
          a = __float_as_uint(static_cast<float>(static_cast<int32_t>(a)) * x_scale * w_scale);
        };
        scale_in_place(acc[i], scale0, by.x);
        scale_in_place(acc[i + 1], scale0, by.y);
        scale_in_place(acc[i + 2], scale1, by.x);
        scale_in_place(acc[i + 3], scale1, by.y);
        if (i % 16 == 12) cuda::CompilerFence();
      }
      const int kept_steps = w.kept_w != nullptr ? work.kept_steps : 0;
      if (kept_steps > 0) {
        run_stages(kept_steps, [&](uint64_t x_kept, uint64_t w_kept, bool) {
#pragma unroll
          for (int k = 0; k < kStep / 32; ++k) cuda::WgmmaBf16(acc, x_kept + 2 * k, w_kept + 2 * k);
        });
      }
      // The bias is added on the way out: registers that wgmma accumulates in are not written again.
      const bool has_bias = w.bias != nullptr;
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const float2 add = *reinterpret_cast<const float2*>(columns + kTileN + lane_column + 2 * i);
        const auto y = [&](int r) {
          const float v = __uint_as_float(acc[r]);
          return has_bias ? v + (r % 2 == 0 ? add.x : add.y) : v;
        };
        if (has0) cuda::StorePair(w.y + at0 + 2 * i, left - 2 * i, aligned, y(i), y(i + 1));
        if (has1) cuda::StorePair(w.y + at1 + 2 * i, left - 2 * i, aligned, y(i + 2), y(i + 3));
      }
    }
  }
}

int64_t Stripes(const cuda::LinearGroup& group, int64_t tile_n) {
  int64_t stripes = 0;
  for (int i = 0; i < group.count; ++i) stripes += cuda::CeilDiv(group.linear[i].n, tile_n);
  return stripes;
}

template <int kTileN>
absl::Status LaunchTiles(const CudaParams& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  using L = Layout<kTileN>;
  const int64_t row_bytes = RowBytes(p.k);
  Maps maps{};
  const int64_t kept = KeptColumns(p.num_kept);
  SF_ASSIGN_OR_RETURN(maps.x, cuda::MapOfRows(cuda::Element::kByte, p.x, p.m, row_bytes, kTileM));
  if (kept > 0) {
    SF_ASSIGN_OR_RETURN(maps.kept_x, cuda::MapOfRows(cuda::Element::kBf16, p.kept_rows, p.m, kept, kTileM));
  }
  for (int i = 0; i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    SF_ASSIGN_OR_RETURN(maps.w[i], cuda::MapOfRows(cuda::Element::kByte, w.w, w.n, row_bytes, kTileN));
    if (w.kept_w != nullptr && kept > 0) {
      SF_ASSIGN_OR_RETURN(maps.kept_w[i],
                          cuda::MapOfRows(cuda::Element::kBf16, w.kept_rows, w.n, kept, kTileN));
    }
  }
  const int64_t tiles_m = cuda::CeilDiv(p.m, kTileM), tiles = tiles_m * Stripes(p.linears, kTileN);
  const Work work = {.m = static_cast<int>(p.m),
                     .steps = static_cast<int>(cuda::CeilDiv(row_bytes, kStep)),
                     .tiles_m = static_cast<int>(tiles_m),
                     .tiles = static_cast<int>(tiles),
                     .kept_steps = static_cast<int>(kept / kKeptStep),
                     .x_scale = p.x_scale,
                     .linears = p.linears};
  return cuda::Launch("matmul_f32_s8r_s8c", matmul_f32_s8r_s8c_sm90<kTileN>,
                      {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(tiles, device.num_sms))),
                       .block = dim3(kThreads),
                       .shared_bytes = L::kBytes},
                      stream, maps, work);
}

}  // namespace

// As in bf16: a wide tile takes as long as two narrow ones less 3 %, and the last round should leave no
// multiprocessor without work.
absl::Status RunHopper(const CudaParams& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const auto rounds = [&](int64_t tile_n) {
    const int64_t tiles = cuda::CeilDiv(p.m, kTileM) * Stripes(p.linears, tile_n);
    return static_cast<double>(cuda::CeilDiv(tiles, device.num_sms));
  };
  return 2 * rounds(256) <= 1.03 * rounds(128) ? LaunchTiles<256>(p, device, stream)
                                               : LaunchTiles<128>(p, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
