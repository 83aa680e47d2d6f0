// Products of some rows, bound by the bytes of W: blocks own channels and a part of K. sm_90.
// A block's part of all rows of x lies in shared memory, loaded once; its warps stream the codes of two tiles
// of 16 channels each past it, from memory to the registers of mma.sync. The blocks that share channels form
// a cluster: they add their sums through each other's shared memory, in a fixed order, without a workspace
// and without atomics. What the operands are is up to Traits:
//   Params                        with m, k and linears
//   kTiles, kColumns              n8 tiles, and their columns
//   kParts, Column(row, part)     columns of a row, and which
//   kChunkBytes                   of x of 64 columns of W (a chunk), in shared memory
//   Step, kSteps                  a lane's codes of a chunk of two row tiles; how many are under way
//   Codes(p, pair, lane, first)   .Load(chunk behind first, Step&)
//   Stage(p, first, chunks, shared)   x of the block's chunks; called by all threads
//   Multiply(step, x, lane, acc)  a step against x (its kChunkBytes)
//   Finish(p, linear, row, n, sum)    one output
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/cuda/tma.cuh"

namespace spikefold::kernels::cuda::cluster {

inline constexpr int kChunk = 64;    // columns of W
inline constexpr int kRowTiles = 2;  // of a warp, 16 channels each
inline constexpr int kChannels = 16 * kRowTiles;
inline constexpr int kMaxSplits = 8;  // blocks of a cluster that any device takes
// Half a multiprocessor a block: the next kernel's blocks have room, and their codes are on their way while
// this one's add up.
inline constexpr int kMaxWarps = 8;
inline constexpr int kBlocks = 2;  // of a multiprocessor
inline constexpr int64_t kMaxShared = 112 << 10;
// Of a column of partial sums: lanes that hold columns 2t of channel g fall into different banks.
inline constexpr int kStride = kChannels + 4;

// How a product is shared out.
struct Plan {
  int pairs = 1;   // pairs of row tiles of a block
  int slices = 1;  // warps that share K for one of them
  int splits = 1;  // blocks that share K
  int chunks = 1;  // of a block
  int shared_bytes = 0;
};

// What lies at the same place of the shared memory of block `rank` of the cluster. Several may be under way.
__device__ inline float LoadRemote(uint32_t shared, uint32_t rank) {
  float v;
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %1, %2;\n"
      "ld.shared::cluster.f32 %0, [remote];\n}"
      : "=f"(v)
      : "r"(shared), "r"(rank));
  return v;
}

template <typename Traits>
__global__ void __launch_bounds__(kMaxWarps* kWarp, kBlocks)
    cluster_rows_sm90(const __grid_constant__ typename Traits::Params p, const Plan plan, int all_pairs) {
  constexpr int kSteps = Traits::kSteps, kColumns = Traits::kColumns;
  extern __shared__ __align__(16) char shared[];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int slot = warp / plan.slices, slice = warp % plan.slices;
  const int all_chunks = static_cast<int>(CeilDiv(p.k, kChunk));
  const int first = static_cast<int>(blockIdx.y) * plan.chunks;
  const int chunks = max(0, min(plan.chunks, all_chunks - first));
  const int pair = static_cast<int>(blockIdx.x) * plan.pairs + slot;
  const bool works = pair < all_pairs;
  const int begin = works ? chunks * slice / plan.slices : 0;
  const int end = works ? chunks * (slice + 1) / plan.slices : 0;

  const typename Traits::Codes codes(p, min(pair, all_pairs - 1), lane, first);
  typename Traits::Step ring[kSteps];
#pragma unroll
  for (int d = 0; d < kSteps; ++d) {
    if (begin + d < end) codes.Load(begin + d, ring[d]);
  }
  LetNextStart();
  WaitForInputs();  // codes do not depend on the kernel before
  Traits::Stage(p, first, chunks, shared);
  __syncthreads();

  float acc[kRowTiles][Traits::kTiles][4] = {};
  for (int s = begin; s < end; s += kSteps) {
#pragma unroll
    for (int d = 0; d < kSteps; ++d) {
      if (s + d < end) Traits::Multiply(ring[d], shared + (s + d) * Traits::kChunkBytes, lane, acc);
      const int next = s + d + kSteps;
      if (next < end) codes.Load(next, ring[d]);
    }
  }

  __syncthreads();                                          // x has been read
  float* const partial = reinterpret_cast<float*>(shared);  // [warps][kColumns][kStride]
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < Traits::kTiles; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = c * 8 + lane % 4 * 2 + e % 2, channel = r * 16 + lane / 4 + e / 2 * 8;
        partial[(warp * kColumns + column) * kStride + channel] = acc[r][c][e];
      }
    }
  }
  // A lane a channel from here on. The block's own sums, over slices and parts, lie where those of the first
  // slice and part lay.
  const int warps = static_cast<int>(blockDim.x) / kWarp, rows = static_cast<int>(p.m);
  const auto at = [&](int of, int slice_of, int row, int part) {
    return ((of * plan.slices + slice_of) * kColumns + Traits::Column(row, part)) * kStride + lane;
  };
  if (plan.slices > 1 || Traits::kParts > 1) {
    __syncthreads();
    for (int of = 0; of < plan.pairs; ++of) {
      for (int row = warp; row < rows; row += warps) {
        float sum = 0;
#pragma unroll 4
        for (int slice_of = 0; slice_of < plan.slices; ++slice_of) {
#pragma unroll
          for (int part = 0; part < Traits::kParts; ++part) sum += partial[at(of, slice_of, row, part)];
        }
        partial[at(of, 0, row, 0)] = sum;
      }
    }
  }
  ClusterSync();
  // Blocks and warps share out the rows of all pairs; the loads from all blocks are under way at once.
  const int splits = static_cast<int>(gridDim.y);
  const uint32_t base = SharedAddress(shared);
  for (int i = static_cast<int>(blockIdx.y) * warps + warp; i < plan.pairs * rows; i += splits * warps) {
    const int of = i / rows, row = i - of * rows;
    int64_t index = static_cast<int64_t>(blockIdx.x) * plan.pairs + of;
    if (index >= all_pairs) break;
    float sums[kMaxSplits];
#pragma unroll
    for (int rank = 0; rank < kMaxSplits; ++rank) {
      sums[rank] = 0;
      if (rank < splits) {
        sums[rank] =
            LoadRemote(base + static_cast<uint32_t>(at(of, 0, row, 0)) * 4, static_cast<uint32_t>(rank));
      }
    }
#pragma unroll
    for (int rank = 1; rank < kMaxSplits; ++rank) sums[0] += sums[rank];
    const int which = simt::LinearAt(p.linears, kChannels, index);
    const int64_t n = index * kChannels + lane;
    if (n < p.linears.linear[which].n) Traits::Finish(p, which, row, n, sums[0]);
  }
  ClusterSync();  // the others have read what lies here
}

inline int NumPairs(const LinearGroup& group) {
  int64_t pairs = 0;
  for (int i = 0; i < group.count; ++i) pairs += CeilDiv(group.linear[i].n, kChannels);
  return static_cast<int>(pairs);
}

// The cheapest way to share a product out, in units of a warp's work on one chunk; shared_bytes 0: x does not
// fit. `places`: blocks in clusters of each size that the device holds at once.
template <typename Traits>
Plan PlanOf(int pairs, int64_t k, const std::array<int, kMaxSplits + 1>& places) {
  constexpr double kStart = 30;    // about a microsecond
  constexpr double kExchange = 2;  // for each block of a cluster
  constexpr double kAlone = 1.2;   // one block alone keeps memory less busy than two
  const int all_chunks = static_cast<int>(CeilDiv(k, kChunk));
  Plan best;
  double least = 1e30;
  for (int splits = 1; splits <= kMaxSplits; ++splits) {
    const int held = places[static_cast<size_t>(splits)];
    const int chunks = static_cast<int>(CeilDiv(all_chunks, splits));
    if (held == 0 || (splits - 1) * chunks >= all_chunks) continue;
    for (int of_block = 1; of_block <= std::min(kMaxWarps, pairs); ++of_block) {
      const int slices = std::max(1, std::min(kMaxWarps / of_block, chunks));
      const int64_t shared = std::max<int64_t>(int64_t{chunks} * Traits::kChunkBytes,
                                               int64_t{4} * of_block * slices * Traits::kColumns * kStride);
      if (shared > kMaxShared) continue;
      const int64_t blocks = CeilDiv(pairs, of_block) * splits;
      const double stage = chunks * static_cast<double>(Traits::kChunkBytes) / 4096;
      const double work = of_block * chunks * (double{kMaxWarps} / (of_block * slices)) + stage;
      const double rounds = kBlocks * static_cast<double>(CeilDiv(blocks, held));
      const double share = 2 * blocks <= held ? kAlone : rounds;
      const double cost = share * work + rounds / kBlocks * kStart + splits * kExchange;
      if (cost >= least) continue;
      least = cost;
      best = {.pairs = of_block,
              .slices = slices,
              .splits = splits,
              .chunks = chunks,
              .shared_bytes = static_cast<int>(shared)};
    }
  }
  return best;
}

// How the device places clusters depends on which of its multiprocessors are switched off: it is asked once.
template <typename Traits>
const std::array<int, kMaxSplits + 1>& Places() {
  static const std::array<int, kMaxSplits + 1> places = [] {
    std::array<int, kMaxSplits + 1> found = {};
    if (!AllowShared(cluster_rows_sm90<Traits>, kMaxShared, "clusters").ok()) return found;
    for (int splits = 1; splits <= kMaxSplits; ++splits) {
      cudaLaunchAttribute size = {};
      size.id = cudaLaunchAttributeClusterDimension;
      size.val.clusterDim.x = size.val.clusterDim.z = 1;
      size.val.clusterDim.y = static_cast<unsigned>(splits);
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(1024, static_cast<unsigned>(splits));
      config.blockDim = dim3(kMaxWarps * kWarp);
      config.dynamicSmemBytes = static_cast<size_t>(kMaxShared);
      config.attrs = &size;
      config.numAttrs = 1;
      int clusters = 0;
      if (cudaOccupancyMaxActiveClusters(&clusters, cluster_rows_sm90<Traits>, &config) == cudaSuccess) {
        found[static_cast<size_t>(splits)] = clusters * splits;
      }
    }
    return found;
  }();
  return places;
}

template <typename Traits>
Plan PlanOf(const typename Traits::Params& p) {
  return PlanOf<Traits>(NumPairs(p.linears), p.k, Places<Traits>());
}
template <typename Traits>
bool Fits(const typename Traits::Params& p) {
  return PlanOf<Traits>(p).shared_bytes > 0;
}

// Requires Fits().
template <typename Traits>
absl::Status Run(const char* name, const typename Traits::Params& p, const Stream& stream) {
  const int pairs = NumPairs(p.linears);
  const Plan plan = PlanOf<Traits>(p);
  SF_RETURN_IF_ERROR(AllowShared(cluster_rows_sm90<Traits>, plan.shared_bytes, name));
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = attributes[0].val.clusterDim.z = 1;
  attributes[0].val.clusterDim.y = static_cast<unsigned>(plan.splits);
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(CeilDiv(pairs, plan.pairs)), static_cast<unsigned>(plan.splits));
  config.blockDim = dim3(static_cast<unsigned>(plan.pairs * plan.slices * kWarp));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = Handle(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  return ToStatus(cudaLaunchKernelEx(&config, cluster_rows_sm90<Traits>, p, plan, pairs), name);
}

}  // namespace spikefold::kernels::cuda::cluster
