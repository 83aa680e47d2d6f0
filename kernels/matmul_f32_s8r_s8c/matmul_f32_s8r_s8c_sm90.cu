// Design: as matmul_bf16_s8r_s8c_sm90.cu (a persistent block a multiprocessor, one producer, two consumer
// warpgroups of 64 rows on wgmma), but float32 leaves the block, made in the CPU's order of roundings: the
// kept columns are added one after another on the CUDA cores, straight from the accumulators' registers.
#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/tensor_map.h"
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
constexpr int kKeptPart = 16;                                     // kept columns in shared memory at a time
constexpr int kKeptStride = kKeptPart + 1;  // floats of a row's kept values: rows fall into other banks

struct Maps {
  CUtensorMap x, w[cuda::kMaxLinears];
};
struct Work {
  int m = 0, steps = 0, tiles_m = 0, tiles = 0;
  int64_t num_kept = 0;
  const float* x_scale = nullptr;
  const float* kept_x = nullptr;
  cuda::LinearGroup linears;
};

template <int kTileN>
struct Layout {
  static constexpr int kXBytes = kTileM * kStep, kStage = kXBytes + kTileN * kStep;
  static constexpr int kStages = kTileN == 256 ? 4 : 6;
  // Of each consumer: kept w bf16 [kKeptPart][kTileN], kept x f32 [64][17], w_scale and bias f32 [kTileN].
  static constexpr int kKept = kStages * kStage;
  static constexpr int kKeptX = kKeptPart * kTileN * 2, kColumns = kKeptX + kRows * kKeptStride * 4;
  static constexpr int kKeptBytes = kColumns + 2 * kTileN * 4;
  static constexpr int kBarriers = kKept + kConsumers * kKeptBytes;  // full, then empty
  static constexpr int kBytes = kBarriers + 2 * kStages * 8;
};

struct Tile {
  int linear = 0;
  int m0 = 0, n0 = 0;
};
// Tiles of one stripe of W follow each other: it stays in L2.
template <int kTileN>
__device__ Tile TileAt(const Work& work, int index) {
  Tile tile = {.m0 = index % work.tiles_m * kTileM};
  int stripe = index / work.tiles_m;
  while (tile.linear + 1 < work.linears.count) {
    const int stripes = static_cast<int>(cuda::CeilDiv(work.linears.linear[tile.linear].n, kTileN));
    if (stripe < stripes) break;
    stripe -= stripes;
    ++tile.linear;
  }
  tile.n0 = stripe * kTileN;
  return tile;
}

// Two neighbouring outputs of which `left` are inside the matrix; in one store where they are aligned.
template <typename T>
__device__ void StorePair(T* to, int left, bool aligned, T a, T b) {
  if (aligned && left > 1) {
    struct alignas(2 * sizeof(T)) Pair {
      T a, b;
    };
    *reinterpret_cast<Pair*>(to) = {a, b};
    return;
  }
  if (left > 0) to[0] = a;
  if (left > 1) to[1] = b;
}

template <int kTileN>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_f32_s8r_s8c_sm90(const __grid_constant__ Maps maps, const __grid_constant__ Work work) {
  using L = Layout<kTileN>;
  constexpr int kAccumulators = kTileN / 2;  // of a thread: 64 x kTileN outputs over 128 threads
  extern __shared__ __align__(1024) char shared[];
  const uint32_t base = cuda::SharedAddress(shared);
  const auto full = [&](int s) { return base + L::kBarriers + static_cast<uint32_t>(s) * 8; };
  const auto empty = [&](int s) { return base + L::kBarriers + static_cast<uint32_t>(L::kStages + s) * 8; };
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;

  if (threadIdx.x == 0) {
    for (int s = 0; s < L::kStages; ++s) {
      cuda::InitBarrier(full(s), 1);
      cuda::InitBarrier(empty(s), kConsumers);
    }
    cuda::FenceBarrierInit();
  }
  __syncthreads();

  if (group == 0) {
    cuda::GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) {
      int stage = 0;
      uint32_t phase = 0;
      for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
        const Tile tile = TileAt<kTileN>(work, at);
        for (int t = 0; t < work.steps; ++t) {
          cuda::WaitBarrierGuarded(empty(stage), phase ^ 1);
          cuda::ArriveExpecting(full(stage), L::kStage);
          const uint32_t x = base + static_cast<uint32_t>(stage * L::kStage);
          cuda::LoadBox(x, maps.x, full(stage), t * kStep, tile.m0);
          cuda::LoadBox(x + L::kXBytes, maps.w[tile.linear], full(stage), t * kStep, tile.n0);
          if (++stage == L::kStages) {
            stage = 0;
            phase ^= 1;
          }
        }
      }
    }
  } else {
    cuda::TakeRegisters<kConsumerRegisters>();
    const int consumer = group - 1, thread = static_cast<int>(threadIdx.x) % kWarpgroup;
    const int lane = thread % 32, warp = thread / 32;
    char* const kept = shared + L::kKept + consumer * L::kKeptBytes;
    uint16_t* const kept_w = reinterpret_cast<uint16_t*>(kept);
    float* const kept_x = reinterpret_cast<float*>(kept + L::kKeptX);
    float* const columns = reinterpret_cast<float*>(kept + L::kColumns);  // w_scale, then bias
    const int row_in_group = warp * 16 + lane / 4;                        // and the row 8 below
    int stage = 0;
    uint32_t phase = 0;
    uint32_t acc[kAccumulators];  // sums, then outputs

    const auto multiply = [&] {
      int previous = -1;
      for (int t = 0; t < work.steps; ++t) {
        cuda::WaitBarrier(full(stage), phase);
        const uint32_t x = base + static_cast<uint32_t>(stage * L::kStage + consumer * kRows * kStep);
        const uint32_t w = base + static_cast<uint32_t>(stage * L::kStage + L::kXBytes);
        cuda::WarpgroupFence();
#pragma unroll
        for (int k = 0; k < kStep / 32; ++k) {
          cuda::WgmmaS8(acc, cuda::OperandDescriptor(x) + 2 * k, cuda::OperandDescriptor(w) + 2 * k,
                        t > 0 || k > 0);
        }
        cuda::WarpgroupCommit();
        if (previous >= 0) {
          cuda::WarpgroupWait<1>();
          if (thread == 0) cuda::Arrive(empty(previous));
        }
        previous = stage;
        if (++stage == L::kStages) {
          stage = 0;
          phase ^= 1;
        }
      }
      cuda::WarpgroupWait<0>();
      if (previous >= 0 && thread == 0) cuda::Arrive(empty(previous));
    };

    // Kept columns [c0, c0 + kKeptPart) of the warpgroup's rows and channels; zeros where there are none.
    const auto load_kept = [&](const cuda::Linear& w, int64_t c0, int m0, int n0) {
      cuda::NamedBarrier(2 + consumer, kWarpgroup);                     // the part before has been used
      const bool whole = w.kept_stride % 8 == 0 && n0 + kTileN <= w.n;  // 16 aligned bytes at a time
#pragma unroll
      for (int i = thread * 8; whole && i < kKeptPart * kTileN; i += kWarpgroup * 8) {
        const int64_t c = c0 + i / kTileN, n = n0 + i % kTileN;
        uint4 bits = make_uint4(0, 0, 0, 0);
        if (c < work.num_kept) bits = *reinterpret_cast<const uint4*>(w.kept_w + c * w.kept_stride + n);
        *reinterpret_cast<uint4*>(kept_w + i) = bits;
      }
      for (int i = thread; !whole && i < kKeptPart * kTileN; i += kWarpgroup) {
        const int64_t c = c0 + i / kTileN, n = n0 + i % kTileN;
        kept_w[i] = c < work.num_kept && n < w.n ? w.kept_w[c * w.kept_stride + n] : uint16_t{0};
      }
      for (int i = thread; i < kKeptPart * kRows; i += kWarpgroup) {
        const int64_t c = c0 + i % kKeptPart, m = m0 + i / kKeptPart;
        kept_x[i / kKeptPart * kKeptStride + i % kKeptPart] =
            c < work.num_kept && m < work.m ? work.kept_x[m * work.num_kept + c] : 0.0f;
      }
      cuda::NamedBarrier(2 + consumer, kWarpgroup);
    };
    const auto add_kept = [&](int count) {
      for (int c = 0; c < count; ++c) {
        const float x0 = kept_x[row_in_group * kKeptStride + c];
        const float x1 = kept_x[(row_in_group + 8) * kKeptStride + c];
#pragma unroll
        for (int i = 0; i < kAccumulators; i += 4) {
          const uint32_t pair =
              *reinterpret_cast<const uint32_t*>(kept_w + c * kTileN + 2 * i + 2 * (lane % 4));
          const float w0 = __uint_as_float(pair << 16), w1 = __uint_as_float(pair & 0xffff0000u);
          const auto add = [&](uint32_t& a, float x, float w) {
            a = __float_as_uint(fmaf(x, w, __uint_as_float(a)));
          };
          add(acc[i], x0, w0);
          add(acc[i + 1], x0, w1);
          add(acc[i + 2], x1, w0);
          add(acc[i + 3], x1, w1);
        }
      }
    };

    for (int at = static_cast<int>(blockIdx.x); at < work.tiles; at += static_cast<int>(gridDim.x)) {
      const Tile tile = TileAt<kTileN>(work, at);
      const cuda::Linear& w = work.linears.linear[tile.linear];
      const int m0 = tile.m0 + consumer * kRows;
      multiply();

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
          if (has0) StorePair(w.sums + at0 + 2 * i, left - 2 * i, aligned, sum(i), sum(i + 1));
          if (has1) StorePair(w.sums + at1 + 2 * i, left - 2 * i, aligned, sum(i + 2), sum(i + 3));
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
      if (w.kept_w != nullptr) {
        for (int64_t c0 = 0; c0 < work.num_kept; c0 += kKeptPart) {
          load_kept(w, c0, m0, tile.n0);
          add_kept(static_cast<int>(work.num_kept - c0 < kKeptPart ? work.num_kept - c0 : kKeptPart));
        }
      }
      if (w.bias != nullptr) {
#pragma unroll
        for (int i = 0; i < kAccumulators; i += 4) {
          const float2 add = *reinterpret_cast<const float2*>(columns + kTileN + lane_column + 2 * i);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            acc[i + e] = __float_as_uint(__uint_as_float(acc[i + e]) + (e % 2 == 0 ? add.x : add.y));
          }
          if (i % 16 == 12) cuda::CompilerFence();
        }
      }
#pragma unroll
      for (int i = 0; i < kAccumulators; i += 4) {
        const auto y = [&](int r) { return __uint_as_float(acc[r]); };
        if (has0) StorePair(w.y + at0 + 2 * i, left - 2 * i, aligned, y(i), y(i + 1));
        if (has1) StorePair(w.y + at1 + 2 * i, left - 2 * i, aligned, y(i + 2), y(i + 3));
      }
    }
  }
}

int64_t Stripes(const cuda::LinearGroup& group, int64_t tile_n) {
  int64_t stripes = 0;
  for (int i = 0; i < group.count; ++i) stripes += cuda::CeilDiv(group.linear[i].n, tile_n);
  return stripes;
}

absl::StatusOr<CUtensorMap> CodesMap(const void* codes, int64_t rows, int64_t row_bytes, int64_t box_rows) {
  return cuda::MakeTensorMap({.element = cuda::Element::kByte,
                              .data = codes,
                              .rows = rows,
                              .columns = row_bytes,
                              .stride = row_bytes,
                              .box_rows = box_rows});
}

template <int kTileN>
absl::Status LaunchTiles(const CudaParams& p, const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  using L = Layout<kTileN>;
  const int64_t row_bytes = RowBytes(p.k);
  Maps maps{};
  SF_ASSIGN_OR_RETURN(maps.x, CodesMap(p.x, p.m, row_bytes, kTileM));
  for (int i = 0; i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    SF_ASSIGN_OR_RETURN(maps.w[i], CodesMap(w.w, w.n, row_bytes, kTileN));
  }
  const int64_t tiles_m = cuda::CeilDiv(p.m, kTileM), tiles = tiles_m * Stripes(p.linears, kTileN);
  const Work work = {.m = static_cast<int>(p.m),
                     .steps = static_cast<int>(cuda::CeilDiv(row_bytes, kStep)),
                     .tiles_m = static_cast<int>(tiles_m),
                     .tiles = static_cast<int>(tiles),
                     .num_kept = p.num_kept,
                     .x_scale = p.x_scale,
                     .kept_x = p.kept_x,
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
