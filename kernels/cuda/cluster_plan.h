// How cluster_rows.cuh shares out a product, and what each warp does of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "kernels/cuda/ceil_div.h"
#include "kernels/cuda/outlier_tail_cuda.h"
#include "kernels/numeric.h"

namespace spikefold::kernels::cuda::cluster {

inline constexpr int kChunk = 64;      // columns of W
inline constexpr int kUnitChunks = 2;  // of a unit; the last one of K may have fewer
inline constexpr int kRowTiles = 2;    // of a warp, 16 channels each
inline constexpr int kChannels = 16 * kRowTiles;
inline constexpr int kMaxSplits = 8;  // blocks of a cluster that any device takes
inline constexpr int kMaxTurns = 16, kMaxStages = 4, kBands = 3;
inline constexpr int64_t kMaxShared = 226 << 10;  // of a block: one a multiprocessor

// Sums of a pair of tiles go from warp to warp and from block to block in items, 16 bytes a lane.
inline constexpr int kItemBytes = 32 * 16;
template <typename Traits>
inline constexpr int kItems = (Traits::kColumns / Traits::kParts) * kChannels * 4 / kItemBytes;  // of a pair

// Clusters that follow each other and have `pairs` pairs each, of all turns together: cluster c those from
// c * pairs + offset on. Bands without clusters begin behind the last one.
struct Band {
  int begin = std::numeric_limits<int>::max();
  int pairs = 0, offset = 0;
};

// How a product is shared out. Numbers that a block would have to divide for are made once, here: until its
// first codes are on their way it has nothing to hide a division behind.
struct Plan {
  int pairs = 1;                               // pairs of row tiles of a turn of a cluster, at most
  int turns = 1;                               // of a cluster: as many as let its sums fit into shared memory
  int splits = 1;                              // blocks that share K
  int units = 1;                               // of K, of a block
  int last_units = 1;                          // of the last block of a cluster, perhaps fewer
  uint32_t per_units = 0, per_last_units = 0;  // 2^32 / units, rounded up, or 0 of 1; of the last block
  int stages = 2;                              // of a ring: 2 to kMaxStages
  int clusters = 1;
  int all_pairs = 0, all_chunks = 0;  // of the product
  int first_pair[kMaxLinears] = {};   // of each linear; beyond all pairs behind the last
  int rank_bytes = 0;                 // of the sums that a block sends to another in a turn, at most
  Band band[kBands] = {};
  // Behind x: largest, the barriers (of the sums' bytes, then of the heads that each warp adds up), rings,
  // heads, sums of all blocks of the cluster.
  int largest = 0, barriers = 0, ring = 0, heads = 0, sums = 0, shared_bytes = 0;
};
template <typename Traits>
void LayOut(Plan& plan) {
  plan.largest = plan.units * kUnitChunks * Traits::kChunkBytes;
  plan.barriers = (plan.largest + Traits::kLargestBytes + 7) / 8 * 8;
  plan.ring = (plan.barriers + (1 + Traits::kWarps) * 8 + 127) / 128 * 128;
  plan.heads = plan.ring + Traits::kWarps * plan.stages * Traits::kUnitBytes;
  plan.sums = plan.heads + Traits::kWarps * kItems<Traits> * kItemBytes;
  plan.rank_bytes = static_cast<int>(CeilDiv(plan.pairs * kItems<Traits>, plan.splits)) * kItemBytes;
  plan.shared_bytes = plan.sums + plan.splits * plan.rank_bytes;
}

// As the device does it in one instruction.
SF_HOST_DEVICE inline uint32_t HighProduct(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
#endif
}

// A warp's part of what a block does in a turn.
template <typename Traits>
struct Share {
  // `cluster` and `rank` say which block.
  SF_HOST_DEVICE Share(const Plan& plan, int cluster, int rank, int turn, int warp) {
#if !defined(__CUDA_ARCH__)
    using std::max, std::min;  // the device has its own
#endif
    const bool last = rank + 1 == plan.splits;
    static_assert(kBands == 3);
    const Band& band =
        plan.band[(cluster >= plan.band[1].begin ? 1 : 0) + (cluster >= plan.band[2].begin ? 1 : 0)];
    const int before = turn * plan.pairs;
    first = rank * plan.units;
    units = last ? plan.last_units : plan.units;
    pair0 = cluster * band.pairs + band.offset + before;
    pairs = max(min(plan.pairs, band.pairs - before), 0);
    // Every warp that works has a unit: what it does not write is not read.
    const int all = pairs * units;
    const auto first_of = [&](int w) {
      return all < Traits::kWarps ? min(w, all)
                                  : static_cast<int>(static_cast<unsigned>(all * w) / Traits::kWarps);
    };
    const int begin = first_of(warp);
    const uint32_t inverse = last ? plan.per_last_units : plan.per_units;
    pair = inverse == 0 ? begin : static_cast<int>(HighProduct(static_cast<uint32_t>(begin), inverse));
    unit = begin - pair * units;
    count = first_of(warp + 1) - begin;
  }
  int first, units;       // of K, the block's
  int pair0, pairs;       // of row tiles, the block's
  int pair, unit, count;  // where the warp begins, and how many units it has
};

// Divided by `all`, rounded down: which warp has a step of a line of `all` steps that warps share as Share
// says.
SF_HOST_DEVICE constexpr int WarpDividend(int step, int all, int warps) {
  return (step + 1) * (all < warps ? all : warps) - 1;
}

// Blocks in clusters of each size that the device holds at once, one a multiprocessor.
using PlacesOfSizes = std::array<int, kMaxSplits + 1>;

// As much of a plan as is given by the product.
inline Plan PlanFor(const LinearGroup& group, int64_t k) {
  Plan plan = {.all_chunks = static_cast<int>(CeilDiv(k, kChunk))};
  for (int i = 0; i < kMaxLinears; ++i) {
    plan.first_pair[i] = i < group.count ? plan.all_pairs : std::numeric_limits<int>::max();
    if (i < group.count) plan.all_pairs += static_cast<int>(CeilDiv(group.linear[i].n, kChannels));
  }
  return plan;
}
// Shares pairs out over as many clusters as are held at once, or fewer; none has more than if all had as
// many. Clusters start in their order, and in kernels that follow each other the last ones late, on
// multiprocessors that the kernel before left last. So what that number leaves over is taken from the last
// quarter, up to what its warps do in about a microsecond, and what is still left one pair each from the last
// cluster on. Who is left without pairs does not start.
template <typename Traits>
void ShareOutPairs(Plan& plan, int held) {
  constexpr int kLateThirds = 4;  // of a unit: what a warp does in that time
  const int all = plan.all_pairs, slots = std::min(held, all), most = static_cast<int>(CeilDiv(all, slots));
  const int late = slots / 4, early = slots - late;
  int less = std::min(kLateThirds * Traits::kWarps / (3 * plan.units), most);
  while (less > 0 && early * most + late * (most - less) < all) --less;
  const int of_late = most - less;
  const int excess = early * most + late * of_late - all;
  const int late_less = of_late == 0 ? 0 : std::min(excess, late), early_less = excess - late_less;
  plan.pairs = static_cast<int>(CeilDiv(most, plan.turns));
  plan.clusters = 0;
  int pair = 0;
  Band* band = plan.band;
  const auto add = [&](int clusters, int pairs) {
    if (clusters == 0 || pairs == 0) return;
    band->begin = plan.clusters;
    band->pairs = pairs;
    band->offset = pair - plan.clusters * pairs;
    ++band;
    plan.clusters += clusters;
    pair += clusters * pairs;
  };
  // No more than three: if early ones have one less, so have all late ones, or these have none.
  add(early - early_less, most);
  add(early_less, most - 1);
  add(late - late_less, of_late);
  add(late_less, of_late - 1);
}
inline uint32_t InverseOf(int units) {
  return units == 1 ? 0 : static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint64_t>(units) + 1);
}
// Shares K out over clusters of `splits` blocks, of which the device holds `held` at once. shared_bytes 0: K
// is too short, or there is nothing to do.
template <typename Traits>
Plan SharedOut(Plan plan, int splits, int turns, int stages, int held) {
  const int all_units = static_cast<int>(CeilDiv(plan.all_chunks, kUnitChunks));
  if (plan.all_pairs == 0 || held == 0) return plan;
  plan.splits = splits;
  plan.turns = turns;
  plan.stages = stages;
  plan.units = static_cast<int>(CeilDiv(all_units, splits));
  plan.last_units = all_units - (splits - 1) * plan.units;
  if (plan.last_units <= 0) return plan;
  plan.per_units = InverseOf(plan.units);
  plan.per_last_units = InverseOf(plan.last_units);
  ShareOutPairs<Traits>(plan, held);
  LayOut<Traits>(plan);
  return plan;
}

// What plans are compared by, in microseconds of an H200.
struct Costs {
  double step;                         // a chunk of a pair, in a block
  double two_stages;                   // of a ring: by what the loop takes longer
  double x;                            // a KiB of a block's x
  double exchange, of_split, of_pair;  // sums that blocks send each other
  double stage;                        // each one less of a ring
};
// Of a product of `rows` float rows.
inline double CostOf(const Plan& plan, const Costs& costs, int rows) {
  constexpr double kMemory = 2.6e-4;  // a chunk of a pair, of all blocks: 1152 bytes at 4.4 TB/s
  constexpr double kTurn = 3.2;
  const double chunks = static_cast<double>(plan.units * kUnitChunks);
  const auto pairs = static_cast<double>(plan.band[0].pairs);
  const double all_steps = static_cast<double>(plan.all_pairs) * plan.all_chunks;
  const double x = chunks * rows * kChunk * sizeof(float) / 1024;
  const double exchange =
      plan.splits == 1 ? 0 : costs.exchange + costs.of_split * plan.splits + costs.of_pair * pairs;
  const double loop =
      std::max(pairs * chunks * costs.step, all_steps * kMemory) * (plan.stages == 2 ? costs.two_stages : 1);
  return loop + x * costs.x + exchange + (plan.turns - 1) * kTurn + (kMaxStages - plan.stages) * costs.stage;
}

// The cheapest way to share a product out, in microseconds of an H200; shared_bytes 0: x does not fit.
template <typename Traits>
Plan PlanOf(const LinearGroup& group, int64_t k, const PlacesOfSizes& places) {
  const Plan product = PlanFor(group, k);
  Plan best;
  double least = 1e30;
  for (int splits = 1; splits <= kMaxSplits; ++splits) {
    const int held = places[static_cast<size_t>(splits)] / splits;
    for (int stages = 2; stages <= kMaxStages; ++stages) {
      Plan plan;
      for (int turns = 1; turns <= kMaxTurns; ++turns) {  // no more than needed
        plan = SharedOut<Traits>(product, splits, turns, stages, held);
        if (plan.shared_bytes <= kMaxShared) break;
      }
      if (plan.shared_bytes == 0 || plan.shared_bytes > kMaxShared) continue;
      const double cost = Traits::Cost(plan);
      if (cost >= least) continue;
      least = cost;
      best = plan;
    }
  }
  return best;
}

}  // namespace spikefold::kernels::cuda::cluster
