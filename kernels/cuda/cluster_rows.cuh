// Products of some rows, bound by the bytes of W: blocks own channels and a part of K. sm_90.
// A block's part of all rows of x lies in shared memory, made once; its warps stream the codes of two tiles
// of 16 channels each past it. Each warp has a ring of steps in shared memory that it alone fills and reads,
// so that nothing in the loop waits for another warp. A block's steps (pairs of tiles x chunks of K) are one
// line that its warps share out evenly: a pair of tiles may be of two warps, whose sums meet at the end. The
// blocks that share channels form a cluster: they add their sums through each other's shared memory, in a
// fixed order, without a workspace and without atomics. What the operands are is up to Traits:
//   Params                        with m, k and linears
//   kWarps                        of a block
//   kTiles, kColumns              n8 tiles, and their columns
//   kParts, Column(row, part)     columns of a row, and which
//   kChunkBytes                   of x of 64 columns of W (a chunk), in shared memory
//   kSteps, kStepBytes            steps in a ring; of the codes of a chunk of two row tiles
//   Codes(p, lane)                .Go(pair, chunk), then .Load(step) of that chunk and each one behind it
//   Stage(p, first, chunks, x, largest)   x of the block's chunks; largest [kColumns], zeros before, is what
//                                 Value() needs to know of a column; called by all threads
//   Multiply(zeros, step, x, lane, acc)   a step against x (its kChunkBytes)
//   Value(sum, largest, half)     what a column's sum of one of channels 8 half to 8 half + 7 stands for
//   Finish(p, linear, row, n, sum)    one output
//   Cost(plan, rows)              about how long it takes
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/cuda/tma.cuh"

namespace spikefold::kernels::cuda::cluster {

inline constexpr int kChunk = 64;    // columns of W
inline constexpr int kRowTiles = 2;  // of a warp, 16 channels each
inline constexpr int kChannels = 16 * kRowTiles;
inline constexpr int kMaxSplits = 8;  // blocks of a cluster that any device takes
inline constexpr int kMaxTurns = 16;
inline constexpr int64_t kMaxShared = 226 << 10;  // of a block: one a multiprocessor
// Of a column of partial sums: lanes that hold columns 2t of channel g fall into different banks.
inline constexpr int kStride = kChannels + 4;

// How a product is shared out.
struct Plan {
  int pairs = 1;   // pairs of row tiles of a turn of a cluster
  int turns = 1;   // of a cluster: as many as let its sums fit into shared memory
  int splits = 1;  // blocks that share K
  int chunks = 1;  // of a block, at most
  int clusters = 1;
  int ring = 0, partial = 0, shared_bytes = 0;  // behind x: largest [kColumns], rings, partial sums
};
template <typename Traits>
void LayOut(Plan& plan) {
  plan.ring = plan.chunks * Traits::kChunkBytes + Traits::kColumns * 4;
  // Where the rings were the block's sums lie in the end.
  plan.partial = plan.ring + std::max(Traits::kWarps * Traits::kSteps * Traits::kStepBytes,
                                      plan.pairs * Traits::kColumns / Traits::kParts * kChannels * 4);
  const int slots = plan.pairs + Traits::kWarps - 1;
  plan.shared_bytes = plan.partial + slots * Traits::kColumns * kStride * 4;
}

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

// i / d for small numbers, without a division: d's inverse in float32 is near enough.
struct Divisor {
  __device__ explicit Divisor(int d) : inverse(1.0f / static_cast<float>(d)) {}
  __device__ int Divide(int i) const { return static_cast<int>((static_cast<float>(i) + 0.5f) * inverse); }
  float inverse;
};

// What a warp loads runs ahead of what it multiplies, over the ends of pairs.
template <typename Traits>
struct Loads {
  __device__ Loads(const typename Traits::Params& p, int lane, int first, int chunks)
      : codes(p, lane), first(first), chunks(chunks) {}
  // Steps from `begin` to `end` of those of the pairs behind `pair0`.
  __device__ void Begin(int pair0, int begin, int end) {
    steps = end - begin;
    if (steps <= 0) return;
    const int behind = begin / chunks, chunk = begin - behind * chunks;
    pair = pair0 + behind;
    left = chunks - chunk;
    codes.Go(pair, first + chunk);
  }
  // The next step, if there is one; a group of copies in any case.
  __device__ void Next(uint32_t to) {
    if (steps > 0) {
      codes.Load(to);
      --steps;
      if (--left == 0 && steps > 0) {
        left = chunks;
        codes.Go(++pair, first);
      }
    }
    CommitCopies();
  }

  typename Traits::Codes codes;
  int first, chunks, pair, steps, left;
};

template <typename Traits>
__global__ void __launch_bounds__(Traits::kWarps* kWarp, 1)
    cluster_rows_sm90(const __grid_constant__ typename Traits::Params p, const __grid_constant__ Plan plan,
                      int all_pairs) {
  constexpr int kSteps = Traits::kSteps, kStepBytes = Traits::kStepBytes, kWarps = Traits::kWarps;
  constexpr int kColumns = Traits::kColumns, kSlot = kColumns * kStride;
  extern __shared__ __align__(16) char shared[];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  // The same in all lanes, and known to be.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarp, 0);
  const int splits = static_cast<int>(gridDim.y), rank = static_cast<int>(blockIdx.y);
  const int all_chunks = static_cast<int>(p.k) / kChunk, first = all_chunks * rank / splits;
  const int chunks = all_chunks * (rank + 1) / splits - first;
  const int rows = static_cast<int>(p.m);
  uint32_t* const largest = reinterpret_cast<uint32_t*>(shared + plan.ring) - kColumns;
  float* const partial = reinterpret_cast<float*>(shared + plan.partial);  // [slots][kColumns][kStride]
  uint32_t x_begin = SharedAddress(shared);
  StaysInLoop(x_begin);
  const uint32_t ring_begin = x_begin + plan.ring + warp * (kSteps * kStepBytes);

  if (static_cast<int>(threadIdx.x) < kColumns) largest[threadIdx.x] = 0;
  Loads<Traits> loads(p, lane, first, chunks);
#pragma unroll 1
  for (int turn = 0; turn < plan.turns; ++turn) {
    const int pair0 = (static_cast<int>(blockIdx.x) * plan.turns + turn) * plan.pairs;
    const int pairs = min(plan.pairs, all_pairs - pair0);
    if (pairs <= 0) break;  // all blocks of the cluster
    // Every warp that works has a step: what it does not write is not read.
    const int steps = pairs * chunks, working = min(steps, kWarps);
    const int begin = steps < kWarps ? min(warp, steps) : steps * warp / kWarps;
    const int end = steps < kWarps ? min(warp + 1, steps) : steps * (warp + 1) / kWarps;
    loads.Begin(pair0, begin, end);
#pragma unroll 1
    for (int d = 0; d + 1 < kSteps; ++d) loads.Next(ring_begin + d * kStepBytes);
    if (turn == 0) {
      __syncthreads();
      LetNextStart();
      WaitForInputs();  // codes do not depend on the kernel before
      Traits::Stage(p, first, chunks, shared, largest);
      __syncthreads();
      // Said anew where Stage needs the registers.
      if constexpr (Traits::kTiles > 1) loads.Begin(pair0, min(begin + kSteps - 1, end), end);
    }

    int pair = begin / chunks, chunk = begin - pair * chunks;
    int at = 0, to = (kSteps - 1) * kStepBytes;
#pragma unroll 1
    for (int s = begin; s < end;) {
      const int stop = min(end, s + chunks - chunk);
      int64_t index = pair0 + pair;
      const bool zeros = p.linears.linear[simt::LinearAt(p.linears, kChannels, index)].w_zero != nullptr;
      uint32_t x = x_begin + chunk * Traits::kChunkBytes;
      float acc[kRowTiles][Traits::kTiles][4] = {};
#pragma unroll 1
      for (; s < stop; ++s) {
        WaitCopies<kSteps - 2>();
        __syncwarp();  // every lane's copies have come, and all have read the step that is loaded over
        loads.Next(ring_begin + to);
        Traits::Multiply(zeros, ring_begin + at, x, lane, acc);
        to = at;
        at = at == (kSteps - 1) * kStepBytes ? 0 : at + kStepBytes;
        x += Traits::kChunkBytes;
      }
      // Slot pair + warp: of two parts that follow each other either the pair or the warp is another.
      float* const slot = partial + (pair + warp) * kSlot;
#pragma unroll
      for (int c = 0; c < Traits::kTiles; ++c) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int column = c * 8 + lane % 4 * 2 + e % 2, channel = lane / 4 + e / 2 * 8;
          const uint32_t size = largest[column];
#pragma unroll
          for (int r = 0; r < kRowTiles; ++r) {
            slot[column * kStride + r * 16 + channel] = Traits::Value(acc[r][c][e], size, e / 2);
          }
        }
      }
      chunk = 0;
      ++pair;
    }
    __syncthreads();
    // A lane a channel from here on; a warp takes some rows of a pair at a time, so that what is a pair's is
    // found out once for them. The block's own sums, over warps and parts.
    constexpr int kAtOnce = 2 * Traits::kTiles;
    float* const sums = reinterpret_cast<float*>(shared + plan.ring) + lane;  // [pairs][rows][kChannels]
    const int row_groups = (rows + kAtOnce - 1) / kAtOnce, groups = kWarps / row_groups;
    const int row0 = warp % row_groups * kAtOnce, group = warp / row_groups;
    const Divisor by_steps(steps);
    const auto warp_of = [&](int step) { return by_steps.Divide((step + 1) * working - 1); };
#pragma unroll 1
    for (int of = group; of < pairs && group < groups; of += groups) {
      const int from = warp_of(of * chunks), more = warp_of((of + 1) * chunks - 1) - from;
      const float* const parts = partial + (of + from) * kSlot + lane;
      float* const to = sums + (of * rows + row0) * kChannels;
      float sum[kAtOnce] = {};
#pragma unroll 1
      for (int v = 0; v <= more; ++v) {
#pragma unroll
        for (int r = 0; r < kAtOnce; ++r) {  // rows behind the last are summed too, and not kept
          float part_sum = 0;
#pragma unroll
          for (int part = 0; part < Traits::kParts; ++part) {
            part_sum += parts[v * kSlot + Traits::Column(row0 + r, part) * kStride];
          }
          sum[r] += part_sum;
        }
      }
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        if (row0 + r < rows) to[r * kChannels] = sum[r];
      }
    }
    ClusterSync();
    // Loads from other blocks that are under way.
    constexpr int kRanks = 4;
#pragma unroll 1
    for (int of = group * splits + rank; of < pairs && group < groups; of += groups * splits) {
      const uint32_t base = SharedAddress(sums + (of * rows + row0) * kChannels);
      float y[kAtOnce] = {};
#pragma unroll 1
      for (int rank0 = 0; rank0 < splits; rank0 += kRanks) {
        float v[kAtOnce][kRanks] = {};
#pragma unroll
        for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
          for (int i = 0; i < kRanks; ++i) {
            if (row0 + r < rows && rank0 + i < splits) {
              v[r][i] = LoadRemote(base + r * (kChannels * 4), static_cast<uint32_t>(rank0 + i));
            }
          }
        }
#pragma unroll
        for (int r = 0; r < kAtOnce; ++r) {
#pragma unroll
          for (int i = 0; i < kRanks; ++i) y[r] += v[r][i];
        }
      }
      int64_t index = pair0 + of;
      const int which = simt::LinearAt(p.linears, kChannels, index);
      const int64_t n = index * kChannels + lane;
      const bool inside = n < p.linears.linear[which].n;
      // Not unrolled: code that runs once waits for its instructions.
#pragma unroll 1
      for (int r = 0; r < kAtOnce && row0 + r < rows; ++r) {
        float sum = y[0];
#pragma unroll
        for (int i = 1; i < kAtOnce; ++i) sum = r == i ? y[i] : sum;
        if (inside) Traits::Finish(p, which, row0 + r, n, sum);
      }
    }
    ClusterSync();  // the others have read what lies here
  }
}

inline int NumPairs(const LinearGroup& group) {
  int64_t pairs = 0;
  for (int i = 0; i < group.count; ++i) pairs += CeilDiv(group.linear[i].n, kChannels);
  return static_cast<int>(pairs);
}

// Blocks in clusters of each size that the device holds at once, one a multiprocessor.
using PlacesOfSizes = std::array<int, kMaxSplits + 1>;

// The cheapest way to share a product out, in microseconds of an H200; shared_bytes 0: x does not fit.
template <typename Traits>
Plan PlanOf(int pairs, int64_t k, int64_t rows, const PlacesOfSizes& places) {
  const int all_chunks = static_cast<int>(CeilDiv(k, kChunk));
  Plan best;
  double least = 1e30;
  for (int splits = 1; splits <= kMaxSplits; ++splits) {
    const int held = places[static_cast<size_t>(splits)] / splits;
    const int chunks = static_cast<int>(CeilDiv(all_chunks, splits));
    if (held == 0 || (splits - 1) * chunks >= all_chunks) continue;
    for (int turns = 1; turns <= kMaxTurns; ++turns) {
      const int of_cluster = static_cast<int>(CeilDiv(pairs, held));
      Plan plan = {.pairs = static_cast<int>(CeilDiv(of_cluster, turns)),
                   .turns = turns,
                   .splits = splits,
                   .chunks = chunks};
      plan.clusters = static_cast<int>(CeilDiv(pairs, plan.pairs * turns));
      LayOut<Traits>(plan);
      if (plan.shared_bytes > kMaxShared) continue;
      const double cost = Traits::Cost(plan, rows);
      if (cost >= least) continue;
      least = cost;
      best = plan;
    }
  }
  return best;
}

// How the device places clusters depends on which of its multiprocessors are switched off: it is asked once.
template <typename Traits>
const PlacesOfSizes& Places() {
  static const PlacesOfSizes places = [] {
    PlacesOfSizes found = {};
    if (!AllowShared(cluster_rows_sm90<Traits>, kMaxShared, "clusters").ok()) return found;
    for (int splits = 1; splits <= kMaxSplits; ++splits) {
      cudaLaunchAttribute size = {};
      size.id = cudaLaunchAttributeClusterDimension;
      size.val.clusterDim.x = size.val.clusterDim.z = 1;
      size.val.clusterDim.y = static_cast<unsigned>(splits);
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(1024, static_cast<unsigned>(splits));
      config.blockDim = dim3(Traits::kWarps * kWarp);
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
  return PlanOf<Traits>(NumPairs(p.linears), p.k, p.m, Places<Traits>());
}
template <typename Traits>
bool Fits(const typename Traits::Params& p) {
  return PlanOf<Traits>(p).shared_bytes > 0;
}

template <typename Traits>
absl::Status RunPlan(const char* name, const typename Traits::Params& p, const Plan& plan,
                     const Stream& stream) {
  SF_RETURN_IF_ERROR(AllowShared(cluster_rows_sm90<Traits>, plan.shared_bytes, name));
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = attributes[0].val.clusterDim.z = 1;
  attributes[0].val.clusterDim.y = static_cast<unsigned>(plan.splits);
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.clusters), static_cast<unsigned>(plan.splits));
  config.blockDim = dim3(Traits::kWarps * kWarp);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = Handle(stream);
  config.attrs = attributes;
  config.numAttrs = 2;
  return ToStatus(cudaLaunchKernelEx(&config, cluster_rows_sm90<Traits>, p, plan, NumPairs(p.linears)), name);
}
// Requires Fits().
template <typename Traits>
absl::Status Run(const char* name, const typename Traits::Params& p, const Stream& stream) {
  return RunPlan<Traits>(name, p, PlanOf<Traits>(p), stream);
}

}  // namespace spikefold::kernels::cuda::cluster
