// Design: a persistent block a multiprocessor; one producer warp fills a ring of stages through the copy
// engine, two consumer warpgroups (64 rows each) multiply. 64 kept bf16 columns are 128-byte rows, byte for
// byte the box, swizzle and stage of 128 codes: they follow in the same ring, and bf16 wgmma adds them to the
// scaled sums in registers. While consumers finish a tile the producer already loads the next.
#include <cuda_bf16.h>

#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/ring.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c_few.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {
namespace {

constexpr int kTileM = 128;      // two warpgroups of 64 rows
constexpr int kStep = 128;       // bytes of K a stage: one swizzled row
constexpr int kWarpgroup = 128;  // threads
constexpr int kThreads = 3 * kWarpgroup;
constexpr int kConsumers = 2;
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;  // of 65,536 / 384 = 168 at entry
constexpr int kStoreColumns = 128;  // a warpgroup stores 64 x 128 outputs at a time: two boxes of 64 x 64
constexpr int kStoreBox = 64 * kStep;
constexpr int kStoreBytes = 2 * kStoreBox;

struct Maps {
  CUtensorMap x, w, kept_x, kept_w, y;
};
struct Work {
  int m = 0, n = 0;
  int steps = 0, kept_steps = 0;  // stages of codes and of kept columns a tile
  int tiles_m = 0, tiles = 0;
  const float* x_scale = nullptr;
  const float* w_scale = nullptr;
  const float* bias = nullptr;
};

template <int kTileN>
struct Layout {
  static constexpr int kXBytes = kTileM * kStep, kWBytes = kTileN * kStep, kStage = kXBytes + kWBytes;
  static constexpr int kStages = kTileN == 256 ? 4 : 6;
  static constexpr int kStore = kStages * kStage;  // [consumer][2][64][64] bf16
  static constexpr int kColumns =
      kStore + kConsumers * kStoreBytes;  // w_scale, bias [kTileN], x_scale [kTileM]: f32
  static constexpr int kBarriers = kColumns + (2 * kTileN + kTileM) * 4;  // full, then empty
  static constexpr int kBytes = kBarriers + cuda::Ring::Bytes(kStages) + 2 * 8;
};

__device__ uint32_t PackBf16(uint32_t low, uint32_t high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(__uint_as_float(low), __uint_as_float(high));
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <int kTileN>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_bf16_s8r_s8c_sm90(const __grid_constant__ Maps maps, const Work work) {
  using L = Layout<kTileN>;
  constexpr int kAccumulators = kTileN / 2;  // of a thread: 64 x kTileN outputs over 128 threads
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = cuda::SharedAddress(shared);
  const cuda::Ring ring = {base + L::kBarriers, L::kStages};
  const uint32_t columns_full = ring.End(), columns_empty = columns_full + 8;
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;

  if (threadIdx.x == 0) {
    ring.Init(1, kConsumers);
    cuda::InitBarrier(columns_full, cuda::kWarp);
    cuda::InitBarrier(columns_empty, kConsumers * kWarpgroup);
    cuda::FenceBarrierInit();
  }
  __syncthreads();

  if (group == 0) {
    cuda::GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) {
      cuda::RingPlace place;
      for (int tile = static_cast<int>(blockIdx.x); tile < work.tiles; tile += static_cast<int>(gridDim.x)) {
        const int m0 = tile % work.tiles_m * kTileM, n0 = tile / work.tiles_m * kTileN;
        for (int t = 0; t < work.steps + work.kept_steps; ++t) {
          const uint32_t full = ring.Full(place.stage);
          cuda::WaitBarrierGuarded(ring.Empty(place.stage), place.phase ^ 1);
          cuda::ArriveExpecting(full, L::kStage);
          const uint32_t x = base + static_cast<uint32_t>(place.stage * L::kStage), w = x + L::kXBytes;
          if (t < work.steps) {
            cuda::LoadBox(x, maps.x, full, t * kStep, m0);
            cuda::LoadBox(w, maps.w, full, t * kStep, n0);
          } else {
            const int column = (t - work.steps) * static_cast<int>(kKeptStep);
            cuda::LoadBox(x, maps.kept_x, full, column, m0);
            cuda::LoadBox(w, maps.kept_w, full, column, n0);
          }
          place.Next(L::kStages);
        }
      }
    }
    if (threadIdx.x / cuda::kWarp == 1) {
      // Scales and bias of each tile, when the consumers have used those of the one before.
      const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
      uint32_t phase = 1;
      for (int tile = static_cast<int>(blockIdx.x); tile < work.tiles;
           tile += static_cast<int>(gridDim.x), phase ^= 1) {
        const int m0 = tile % work.tiles_m * kTileM, n0 = tile / work.tiles_m * kTileN;
        float* const w_scale = reinterpret_cast<float*>(shared + L::kColumns);
        float *const bias = w_scale + kTileN, *const x_scale = bias + kTileN;
        cuda::WaitBarrierGuarded(columns_empty, phase);
        for (int i = lane; i < kTileN; i += cuda::kWarp) {
          w_scale[i] = n0 + i < work.n ? work.w_scale[n0 + i] : 0.0f;
          bias[i] = work.bias != nullptr && n0 + i < work.n ? work.bias[n0 + i] : 0.0f;
        }
        for (int i = lane; i < kTileM; i += cuda::kWarp) {
          x_scale[i] = m0 + i < work.m ? work.x_scale[m0 + i] : 0.0f;
        }
        cuda::Arrive(columns_full);
      }
    }
  } else {
    cuda::TakeRegisters<kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) - kWarpgroup;
    const int lane = thread % 32, warp = thread % kWarpgroup / 32;
    const uint32_t store = base + L::kStore + static_cast<uint32_t>(consumer * kStoreBytes);
    // Where this lane's row of the 8x8 matrices of columns 0-7 (lanes 0-15) or 8-15 begins; two blocks
    // further it is the XOR of the chunk number with the block number.
    const int lane_row = warp * 16 + lane % 16;
    const uint32_t line =
        store + static_cast<uint32_t>(lane_row * kStep + ((lane / 16) ^ (lane_row % 8)) * 16);
    const float* const columns = reinterpret_cast<const float*>(shared + L::kColumns);
    cuda::RingPlace place;
    uint32_t columns_phase = 0;
    // `multiply(x, w, first)` starts the wgmmas of a stage.
    const auto run_stages = [&](int steps, auto multiply) {
      cuda::MultiplyStages(ring, place, steps, thread % kWarpgroup == 0, [&](int stage, bool first) {
        const uint32_t at = base + static_cast<uint32_t>(stage * L::kStage);
        multiply(cuda::OperandDescriptor(at + consumer * 64 * kStep),
                 cuda::OperandDescriptor(at + L::kXBytes), first);
      });
    };

    for (int tile = static_cast<int>(blockIdx.x); tile < work.tiles; tile += static_cast<int>(gridDim.x)) {
      const int m0 = tile % work.tiles_m * kTileM + consumer * 64;
      const int n0 = tile / work.tiles_m * kTileN;
      uint32_t acc[kAccumulators];  // sums, then outputs
      run_stages(work.steps, [&](uint64_t x, uint64_t w, bool first) {
#pragma unroll
        for (int k = 0; k < kStep / 32; ++k) cuda::WgmmaS8(acc, x + 2 * k, w + 2 * k, !first || k > 0);
      });

      const float* const w_scale = columns;
      const float *const bias = w_scale + kTileN, *const x_scale = bias + kTileN;
      cuda::WaitBarrier(columns_full, columns_phase);
      const float* const rows = x_scale + consumer * 64 + warp * 16 + lane / 4;
      const float scale0 = rows[0], scale1 = rows[8];
      const auto scale_in_place = [&](uint32_t& a, float x_scale, float by, float add) {
        a = __float_as_uint(static_cast<float>(static_cast<int32_t>(a)) * x_scale * by + add);
      };
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const int column = 2 * i + 2 * (lane % 4);
        const float2 scale = *reinterpret_cast<const float2*>(w_scale + column);
        const float2 add = *reinterpret_cast<const float2*>(bias + column);
        scale_in_place(acc[i], scale0, scale.x, add.x);
        scale_in_place(acc[i + 1], scale0, scale.y, add.y);
        scale_in_place(acc[i + 2], scale1, scale.x, add.x);
        scale_in_place(acc[i + 3], scale1, scale.y, add.y);
        if (i % 16 == 12) cuda::CompilerFence();
      }
      cuda::Arrive(columns_empty);
      columns_phase ^= 1;
      if (work.kept_steps > 0) {
        run_stages(work.kept_steps, [&](uint64_t x, uint64_t w, bool) {
#pragma unroll
          for (int k = 0; k < kStep / 32; ++k) cuda::WgmmaBf16(acc, x + 2 * k, w + 2 * k);
        });
      }

#pragma unroll
      for (int half = 0; half < kTileN / kStoreColumns; ++half) {
        if (thread % kWarpgroup == 0) cuda::WaitStoresRead();  // the buffer is free
        cuda::NamedBarrier(2 + consumer, kWarpgroup);
#pragma unroll
        for (int j = 0; j < kStoreColumns / 8; j += 2) {  // two 8-column blocks
          const int at = half * kStoreColumns / 2 + j * 4;
          const uint32_t to =
              (line ^ static_cast<uint32_t>(j % 8 * 16)) + static_cast<uint32_t>(j / 8 * kStoreBox);
          cuda::StoreMatrices(to, PackBf16(acc[at], acc[at + 1]), PackBf16(acc[at + 2], acc[at + 3]),
                              PackBf16(acc[at + 4], acc[at + 5]), PackBf16(acc[at + 6], acc[at + 7]));
        }
        cuda::FenceToCopyEngine();
        cuda::NamedBarrier(2 + consumer, kWarpgroup);
        if (thread % kWarpgroup == 0) {
          cuda::StoreBox(maps.y, store, n0 + half * kStoreColumns, m0);
          cuda::StoreBox(maps.y, store + kStoreBox, n0 + half * kStoreColumns + 64, m0);
          cuda::CommitStores();
        }
      }
    }
    if (thread % kWarpgroup == 0) cuda::WaitStores();
  }
}

template <int kTileN>
absl::Status LaunchTiles(const Params& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  using L = Layout<kTileN>;
  constexpr auto kByte = cuda::Element::kByte;
  constexpr auto kBf16 = cuda::Element::kBf16;
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, cuda::MapOfRows(kByte, p.x, p.m, p.k, kTileM));
  SF_ASSIGN_OR_RETURN(maps.w, cuda::MapOfRows(kByte, p.w, p.n, p.k, kTileN));
  if (p.num_kept > 0) {
    SF_ASSIGN_OR_RETURN(maps.kept_x, cuda::MapOfRows(kBf16, p.kept_x, p.m, p.num_kept, kTileM));
    SF_ASSIGN_OR_RETURN(maps.kept_w, cuda::MapOfRows(kBf16, p.kept_w, p.n, p.num_kept, kTileN));
  }
  SF_ASSIGN_OR_RETURN(maps.y, cuda::MapOfRows(kBf16, p.y, p.m, p.n, 64));
  const int64_t tiles_m = cuda::CeilDiv(p.m, kTileM), tiles = tiles_m * cuda::CeilDiv(p.n, kTileN);
  const Work work = {.m = static_cast<int>(p.m),
                     .n = static_cast<int>(p.n),
                     .steps = static_cast<int>(cuda::CeilDiv(p.k, kStep)),
                     .kept_steps = static_cast<int>(p.num_kept / kKeptStep),
                     .tiles_m = static_cast<int>(tiles_m),
                     .tiles = static_cast<int>(tiles),
                     .x_scale = p.x_scale,
                     .w_scale = p.w_scale,
                     .bias = p.bias};
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(tiles, device.num_sms));
  return cuda::Launch("matmul_bf16_s8r_s8c", matmul_bf16_s8r_s8c_sm90<kTileN>,
                      {.grid = dim3(blocks), .block = dim3(kThreads), .shared_bytes = L::kBytes}, stream,
                      maps, work);
}

// A wide tile takes as long as two narrow ones less 3 % (it reads less from L2); the last round of tiles may
// leave multiprocessors without work, narrow ones fewer.
int ChooseTile(const Params& p, const cuda::DeviceInfo& device) {
  const auto rounds = [&](int64_t tile_n) {
    return cuda::CeilDiv(cuda::CeilDiv(p.m, kTileM) * cuda::CeilDiv(p.n, tile_n), device.num_sms);
  };
  return 2.0 * static_cast<double>(rounds(256)) <= 1.03 * static_cast<double>(rounds(128)) ? 256 : 128;
}

}  // namespace

absl::Status Run(const Params& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  SF_RETURN_IF_ERROR(Supports(p, device));
  const bool few = p.m <= kFewRows && p.tile_n == 0 && p.plan.groups == 0;
  if (device.sm != 90 || p.tile_n < 0 || few) return RunFew(p, stream);
  if (p.tile_n == 0 && FitsFewHopper(p, device)) return RunFewHopper(p, device, stream);
  const int tile_n = p.tile_n != 0 ? p.tile_n : ChooseTile(p, device);
  return tile_n == 256 ? LaunchTiles<256>(p, device, stream) : LaunchTiles<128>(p, device, stream);
}

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
