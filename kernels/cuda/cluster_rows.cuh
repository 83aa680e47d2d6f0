// Products of some rows, bound by the bytes of W: blocks own channels and a part of K. sm_90.
// A block's part of all rows of x lies in shared memory, made once; its warps stream the codes of two tiles
// of 16 channels each past it, two chunks of K (a unit) at a time. Each warp has a ring of units in shared
// memory that it alone fills and reads, so that from unit to unit no warp waits for another. A block's units
// (pairs of tiles x parts of K) are one line that its warps share out evenly. Where a pair is of several
// warps, each but the first one has it at the head of its part and leaves its sums in shared memory; the
// first one, which comes to it last, adds them up. The blocks that share channels form a cluster: as soon as
// a warp has a pair's sums it sends them to the blocks that finish them, which add up what the blocks of the
// cluster have sent in a fixed order, without a workspace and without atomics.
// What the operands are is up to Traits:
//   Params                        with m, k and linears
//   kWarps, kRegisters            of a block, and of a thread at most. The shared memory of a multiprocessor
//                                 is a block's; the registers that it leaves are room for small kernels
//                                 before and after, which otherwise hold up blocks of this one
//   kTiles, kSums                 n8 tiles, and the sums of a lane of each
//   kColumns, kParts              a pair's sums fill kColumns / kParts columns of 32 channels: items enough
//   kChunkBytes                   of x of 64 columns of W (a chunk), in shared memory
//   kUnitBytes                    of the codes of a unit
//   Codes(linears, lane)          .Go(linear, pair, chunk, chunks of K), then .Load(to, chunks) of a unit
//                                 there and each one behind it
//   X(p, first, chunks)           x of the block's chunks, without reading it yet: .Load() starts to,
//                                 .Keep(x, largest) puts it into shared memory, and into largest what Sums()
//                                 needs to know; called by all threads
//   kLargestBytes                 of largest and what X needs behind it
//   Multiply(zeros, chunks, unit, x, lane, acc)   a unit against x; acc [kRowTiles][kTiles][kSums]
//   Sums(acc, largest, lane, sum)   the sums that acc stands for, as kItems of a float4: element i of lanes
//                                 j = lane / 4 % 4 of 0 to 3 is of four channels that follow each other
//   Place(item, lane, row, channel)   what a lane has of an item after TransposedOverChannels(), i and j
//                                 changed: four channels of a row, from `channel` of the pair on; a row of m
//                                 or more if nothing
//   Output(p, linear, row, n)     of channels n to n + 3, which may be beyond the last one: it reads nothing;
//                                 .Finish(p, y) stores them, if they are any
//   Cost(plan)                    about how long it takes, in microseconds
#pragma once

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/cluster_plan.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/cuda/streaming.cuh"
#include "kernels/cuda/tma.cuh"

namespace spikefold::kernels::cuda::cluster {

__device__ inline float4 operator+(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
// Lanes 4 and 8 apart, j = lane / 4 % 4 of each: v[i] of lane j becomes v[j] of lane i.
__device__ inline float4 TransposedOverChannels(float4 v) {
  const bool odd = threadIdx.x & 4, high = threadIdx.x & 8;
  const auto exchange = [](bool upper, int apart, float& low, float& up) {
    const float got = __shfl_xor_sync(0xffffffffu, upper ? low : up, apart);
    (upper ? low : up) = got;
  };
  exchange(odd, 4, v.x, v.y);
  exchange(odd, 4, v.z, v.w);
  exchange(high, 8, v.x, v.z);
  exchange(high, 8, v.y, v.w);
  return v;
}
// i / d for small numbers, without a division: d's inverse in float32 is near enough.
struct Divisor {
  __device__ explicit Divisor(int d) {
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(static_cast<float>(d)));
  }
  __device__ int Divide(int i) const { return static_cast<int>((static_cast<float>(i) + 0.5f) * inverse); }
  float inverse;
};

// Which linear a pair of row tiles is of; the last one behind them all.
__device__ inline int LinearOf(const Plan& plan, int pair) {
  int linear = 0;
#pragma unroll
  for (int i = 1; i < kMaxLinears; ++i) linear += pair >= plan.first_pair[i] ? 1 : 0;
  return linear;
}

// What a warp loads runs ahead of what it multiplies, over the ends of pairs.
template <typename Traits>
struct Loads {
  __device__ Loads(const LinearGroup& linears, const Plan& plan, int lane)
      : plan(plan), codes(linears, lane) {}
  // Goes to the first unit of a turn.
  __device__ void Begin(const Share<Traits>& share) {
    first = share.first;
    units = share.units;
    pair = share.pair0 + share.pair;
    unit = share.unit;
    left = share.count;
    Go();
  }
  __device__ void Go() {
    if (left <= 0) return;
    const int linear = LinearOf(plan, pair);
    codes.Go(linear, pair - plan.first_pair[linear], (first + unit) * kUnitChunks, plan.all_chunks);
  }
  // The next unit, if there is one; a group of copies in any case.
  __device__ void Next(uint32_t to) {
    if (left > 0) {
      codes.Load(to, plan.all_chunks - (first + unit) * kUnitChunks);
      --left;
      if (++unit == units) {
        unit = 0;
        ++pair;
        Go();
      }
    }
    CommitCopies();
  }

  const Plan& plan;
  typename Traits::Codes codes;
  int first, units, pair, unit, left;
};

// Until the oldest of stages - 1 groups of copies is complete.
__device__ inline void WaitOldest(int stages) {
  static_assert(kMaxStages == 4);
  if (stages == 4) {
    WaitCopies<2>();
  } else if (stages == 3) {
    WaitCopies<1>();
  } else {
    WaitCopies<0>();
  }
}

template <typename Traits>
__global__ void __maxnreg__(Traits::kRegisters)
    cluster_rows_sm90(const __grid_constant__ typename Traits::Params p, const __grid_constant__ Plan plan) {
  constexpr int kUnitBytes = Traits::kUnitBytes, kWarps = Traits::kWarps;
  constexpr int kOfPair = kItems<Traits>;
  extern __shared__ __align__(128) char shared[];
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  // The same in all lanes, and known to be.
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x / kWarp), 0);
  const int rank = static_cast<int>(blockIdx.y), cluster = static_cast<int>(blockIdx.x);
  uint32_t* const largest = reinterpret_cast<uint32_t*>(shared + plan.largest);
  uint32_t x_begin = SharedAddress(shared);
  StaysInLoop(x_begin);
  const uint32_t barrier = x_begin + plan.barriers, head_barriers = barrier + 8;
  const uint32_t head_barrier = head_barriers + 8 * warp;
  const uint32_t heads = x_begin + plan.heads + lane * 16;  // [warp][item]
  // Of all blocks: [rank][items of a block].
  const uint32_t sums = x_begin + plan.sums + lane * 16;
  const uint32_t ring = x_begin + plan.ring + warp * (plan.stages * kUnitBytes);
  Loads<Traits> loads(p.linears, plan, lane);
  Share<Traits> share(plan, cluster, rank, 0, warp);
  loads.Begin(share);
  loads.Next(ring);  // no more of them before x: they would be in its way
  LetNextStart();
  if (lane == 0) InitBarrier(head_barrier, kWarps);
  if (threadIdx.x == 0) {
    InitBarrier(barrier, 1);
    FenceBarrierInit();
  }
  __syncwarp();
  if (plan.splits > 1) ClusterArriveRelaxed();
  const int x_first = share.first * kUnitChunks;
  typename Traits::X of_x(p, x_first, min(share.units * kUnitChunks, plan.all_chunks - x_first));
  WaitForInputs();  // codes do not depend on the kernel before
  of_x.Load();
#pragma unroll 1
  for (int d = 1; d < plan.stages - 1; ++d) loads.Next(ring + d * kUnitBytes);
  of_x.Keep(shared, largest);
  __syncthreads();
  uint32_t parity = 0;  // of the barrier at which the warp waits for heads
#pragma unroll 1
  for (int turn = 0;;) {
    const int units = share.units, pair0 = share.pair0, pairs = share.pairs;
    int pair = share.pair, unit = share.unit;
    // Item i is finished by block i % splits.
    const Divisor by_splits(plan.splits);
    const int items = pairs * kOfPair, mine = by_splits.Divide(items + plan.splits - 1 - rank);
    if (threadIdx.x == 0) ArriveExpecting(barrier, mine * plan.splits * kItemBytes);
    // Which warp has a step of the block's line.
    const int all = pairs * units;
    const Divisor by_all(all);
    const auto warp_of = [&](int step) { return by_all.Divide(WarpDividend(step, all, kWarps)); };
    bool begun = plan.splits == 1;  // the others have begun this turn: their memory may be written to
    uint32_t at = ring, last = ring + (plan.stages - 1) * kUnitBytes, to = last;
#pragma unroll 1
    for (int left = share.count; left > 0;) {
      const int steps = min(left, units - unit);
      left -= steps;
      const bool zeros = p.linears.linear[LinearOf(plan, pair0 + pair)].w_zero != nullptr;
      uint32_t x = x_begin + unit * (kUnitChunks * Traits::kChunkBytes);
      int chunks_left = plan.all_chunks - (share.first + unit) * kUnitChunks;
      float acc[kRowTiles][Traits::kTiles][Traits::kSums] = {};
#pragma unroll 1
      for (int s = 0; s < steps; ++s) {
        WaitOldest(plan.stages);
        __syncwarp();  // every lane's copies have come, and all have read the unit that is loaded over
        loads.Next(to);
        Traits::Multiply(zeros, chunks_left, at, x, lane, acc);
        to = at;
        at = at == last ? ring : at + kUnitBytes;
        x += kUnitChunks * Traits::kChunkBytes;
        chunks_left -= kUnitChunks;
      }
      float4 sum[kOfPair];
      Traits::Sums(acc, largest, lane, sum);
      if (unit > 0) {  // a head
#pragma unroll
        for (int i = 0; i < kOfPair; ++i) StoreShared16(heads + (warp * kOfPair + i) * kItemBytes, sum[i]);
        __syncwarp();
        if (lane == 0) Arrive(head_barriers + 8 * warp_of(pair * units));
      } else {
        if (steps < units) {  // the next warps have the rest; who adds up arrives for all that have nothing
          const int until = warp_of((pair + 1) * units - 1);
          if (lane == 0) Arrive(head_barrier, kWarps - (until - warp));
          WaitBarrierGuarded(head_barrier, parity);
          parity ^= 1;
#pragma unroll(kOfPair == 1 ? 4 : 1)
          for (int other = warp + 1; other <= until; ++other) {
#pragma unroll
            for (int i = 0; i < kOfPair; ++i) {
              sum[i] = sum[i] + LoadSharedFloats(heads + (other * kOfPair + i) * kItemBytes);
            }
          }
        }
        if (!begun) {
          ClusterWait();
          begun = true;
        }
#pragma unroll
        for (int i = 0; i < kOfPair; ++i) {
          const int item = pair * kOfPair + i, place = by_splits.Divide(item);
          StoreRemote16(sums + rank * plan.rank_bytes + place * kItemBytes,
                        static_cast<uint32_t>(item - place * plan.splits), sum[i], barrier);
        }
      }
      unit = 0;
      ++pair;
    }
    if (!begun) ClusterWait();
    // One place alone for what outputs may need: its code is long, and each block fetches it anew.
    const auto output_of = [&](int item) {
      const int of = pair0 + item / kOfPair, linear = LinearOf(plan, of);
      int row, channel;
      Traits::Place(item % kOfPair, lane, row, channel);
      return typename Traits::Output(p, linear, row, (of - plan.first_pair[linear]) * kChannels + channel);
    };
    typename Traits::Output output = output_of(warp * plan.splits + rank);  // known before the sums come
    if (warp < mine) WaitClusterBarrierGuarded(barrier, turn % 2);
#pragma unroll 1
    for (int place = warp; place < mine; place += kWarps) {
      if (place > warp) output = output_of(place * plan.splits + rank);
      float4 y = {};
#pragma unroll
      for (int other = 0; other < kMaxSplits; ++other) {
        if (other < plan.splits)
          y = y + LoadSharedFloats(sums + other * plan.rank_bytes + place * kItemBytes);
      }
      output.Finish(p, TransposedOverChannels(y));
    }
    if (++turn == plan.turns) break;
    share = Share<Traits>(plan, cluster, rank, turn, warp);
    if (share.pairs <= 0) break;  // all blocks of the cluster
    // All have read the sums of the turn before: outputs were made of them.
    if (plan.splits > 1) ClusterArriveRelaxed();
    __syncwarp();  // all lanes have read the units that are loaded over
    loads.Begin(share);
#pragma unroll 1
    for (int d = 0; d < plan.stages - 1; ++d) loads.Next(ring + d * kUnitBytes);
    __syncthreads();  // heads are written anew; of one block, its sums too
  }
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
  return PlanOf<Traits>(p.linears, p.k, Places<Traits>());
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
  return ToStatus(cudaLaunchKernelEx(&config, cluster_rows_sm90<Traits>, p, plan), name);
}
// InvalidArgument: not Fits().
template <typename Traits>
absl::Status Run(const char* name, const typename Traits::Params& p, const Stream& stream) {
  if (PlanFor(p.linears, p.k).all_pairs == 0) return absl::OkStatus();
  const Plan plan = PlanOf<Traits>(p);
  if (plan.shared_bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " in clusters: no room for x of K = ", p.k, " and the sums"));
  }
  return RunPlan<Traits>(name, p, plan, stream);
}

}  // namespace spikefold::kernels::cuda::cluster
