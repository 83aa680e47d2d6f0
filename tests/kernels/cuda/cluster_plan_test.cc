// How clusters of blocks share out a product of few rows: a plan of the host, followed by every warp.
#include "kernels/cuda/cluster_plan.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "catch2/catch.hpp"

namespace spikefold::kernels::cuda::cluster {
namespace {

// As operands of the kernels are: 16 rows in f16, 4 in two parts; one row in digits.
struct SixteenRows {
  static constexpr int kWarps = 12, kColumns = 16, kParts = 1;
  static constexpr int kChunkBytes = 2176, kLargestBytes = 448, kUnitBytes = 2368;
  static double Cost(const Plan& plan) { return plan.splits + plan.turns; }
};
struct FourRows {
  static constexpr int kWarps = 12, kColumns = 8, kParts = 2;
  static constexpr int kChunkBytes = 1088, kLargestBytes = 416, kUnitBytes = 2368;
  static double Cost(const Plan& plan) { return plan.splits + plan.turns; }
};
struct OneRow {
  static constexpr int kWarps = 16, kColumns = 4, kParts = 1;
  static constexpr int kChunkBytes = 208, kLargestBytes = 0, kUnitBytes = 2368;
  static double Cost(const Plan& plan) { return plan.splits + plan.turns; }
};

LinearGroup GroupOf(const std::vector<int64_t>& widths) {
  LinearGroup group;
  for (const int64_t n : widths) group.linear[group.count++].n = n;
  return group;
}

// Each unit of each pair of tiles is one warp's, and the places of shared memory follow each other.
template <typename Traits>
void Follow(const Plan& plan) {
  const int all_units = (plan.all_chunks + kUnitChunks - 1) / kUnitChunks;
  std::vector<int> done(static_cast<size_t>(plan.all_pairs * all_units), 0);
  int64_t beyond = 0, empty = 0, others = 0;
  for (int cluster = 0; cluster < plan.clusters; ++cluster) {
    for (int turn = 0; turn < plan.turns; ++turn) {
      for (int rank = 0; rank < plan.splits; ++rank) {
        for (int warp = 0; warp < Traits::kWarps; ++warp) {
          const Share<Traits> share(plan, cluster, rank, turn, warp);
          empty += turn == 0 && share.pairs <= 0;
          if (share.pairs <= 0) continue;
          int pair = share.pair, unit = share.unit;
          const int all = share.pairs * share.units;
          const auto warp_of = [&](int step) { return WarpDividend(step, all, Traits::kWarps) / all; };
          for (int s = 0; s < share.count; ++s) {
            others += warp_of(pair * share.units + unit) != warp;
            const int of = share.pair0 + pair, at = share.first + unit;
            if (pair >= plan.pairs || of >= plan.all_pairs || at >= all_units || unit >= plan.units) {
              ++beyond;
            } else {
              ++done[static_cast<size_t>(of * all_units + at)];
            }
            if (++unit == share.units) unit = 0, ++pair;
          }
        }
      }
    }
  }
  int64_t wrong = 0;
  for (const int count : done) wrong += count != 1;
  CHECK(wrong == 0);
  CHECK(beyond == 0);
  CHECK(empty == 0);  // who starts has something to do
  CHECK(others == 0);
  CHECK(plan.largest >= plan.units * kUnitChunks * Traits::kChunkBytes);
  CHECK(plan.barriers >= plan.largest + Traits::kLargestBytes);
  CHECK(plan.barriers % 8 == 0);
  CHECK(plan.ring >= plan.barriers + 8 * (1 + Traits::kWarps));
  CHECK(plan.ring % 128 == 0);
  CHECK(plan.heads == plan.ring + Traits::kWarps * plan.stages * Traits::kUnitBytes);
  // What warps leave each other of a pair, then what the blocks of a cluster send each other.
  const int pair_bytes = Traits::kColumns / Traits::kParts * kChannels * 4;
  CHECK(plan.sums == plan.heads + Traits::kWarps * pair_bytes);
  CHECK(plan.rank_bytes * plan.splits >= plan.pairs * pair_bytes);
  CHECK(plan.shared_bytes == plan.sums + plan.rank_bytes * plan.splits);
}

template <typename Traits>
void FollowAll() {
  int64_t followed = 0;
  for (const std::vector<int64_t>& widths :
       {std::vector<int64_t>{4096, 1024, 1024}, {28672}, {50, 96, 33, 16}, {1}, {32, 31}}) {
    for (const int64_t k : {64, 128, 576, 1088, 4096, 14336}) {
      const Plan product = PlanFor(GroupOf(widths), k);
      for (const int splits : {1, 2, 3, 4, 7, 8}) {
        for (const int held : {1, 15, 132 / splits}) {
          for (const int turns : {1, 2, 5}) {
            const Plan plan = SharedOut<Traits>(product, splits, turns, 2, held);
            if (plan.shared_bytes == 0) continue;  // K is too short for so many
            CHECK(plan.clusters <= held);
            // What is not even is less for the later ones, and nobody has more for it.
            CHECK(plan.band[0].pairs == CeilDiv(plan.all_pairs, std::min(held, plan.all_pairs)));
            CHECK(plan.band[1].pairs <= plan.band[0].pairs);
            CHECK(plan.band[2].pairs <= plan.band[1].pairs);
            INFO("splits " << splits << ", held " << held << ", turns " << turns << ", K " << k
                           << ", first width " << widths[0]);
            Follow<Traits>(plan);
            ++followed;
          }
        }
      }
    }
  }
  CHECK(followed > 500);
}

TEST_CASE("Every unit of a product in clusters is one warp's, however it is shared out", "[matmul][plan]") {
  FollowAll<SixteenRows>();
  FollowAll<FourRows>();
  FollowAll<OneRow>();
}

TEST_CASE("What pairs leave over is the last clusters'", "[matmul][plan]") {
  // 256 pairs, 15 clusters: 18 of them each at most, 14 pairs too many.
  const Plan plan = SharedOut<FourRows>(PlanFor(GroupOf({8192}), 8192), 8, 1, 4, 15);
  std::vector<int> pairs;
  for (int cluster = 0; cluster < plan.clusters; ++cluster) {
    pairs.push_back(Share<FourRows>(plan, cluster, 0, 0, 0).pairs);
  }
  CHECK(pairs == std::vector<int>{18, 18, 18, 18, 18, 18, 18, 17, 17, 17, 17, 17, 15, 15, 15});
}

TEST_CASE("A plan fits into shared memory and no more blocks are planned than are held at once",
          "[matmul][plan]") {
  PlacesOfSizes places = {};
  for (int splits = 1; splits <= kMaxSplits; ++splits) {
    places[static_cast<size_t>(splits)] = (splits == 8 ? 15 : 132 / splits) * splits;
  }
  for (const int64_t n : {1, 4096, 28672, 100000}) {
    for (const int64_t k : {64, 4096, 14336}) {
      INFO(n << " x " << k);
      for (const Plan& plan :
           {PlanOf<SixteenRows>(GroupOf({n}), k, places), PlanOf<OneRow>(GroupOf({n}), k, places)}) {
        CHECK(plan.shared_bytes > 0);
        CHECK(plan.shared_bytes <= kMaxShared);
        CHECK(plan.clusters * plan.splits <= places[static_cast<size_t>(plan.splits)]);
        CHECK(plan.clusters * plan.turns * plan.pairs >= plan.all_pairs);
      }
    }
  }
  CHECK(PlanOf<OneRow>(GroupOf({4096}), int64_t{1} << 22, places).shared_bytes == 0);  // x has no room
}

}  // namespace
}  // namespace spikefold::kernels::cuda::cluster
