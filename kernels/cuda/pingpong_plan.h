// How kernels/cuda/pingpong_tiles.cuh shares out a product.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "kernels/cuda/ceil_div.h"
#include "kernels/cuda/outlier_tail_cuda.h"

namespace spikefold::kernels::cuda::pingpong {

inline constexpr int kStep = 128;  // bytes of K a stage: one swizzled row

// A tile of outputs: 128 rows and 256 channels, which both warpgroups of a block make together, or 128 and
// 128, 64 and 128, or 64 and 64, which they take by turns.
struct Plan {
  int tile_m = 0, tile_n = 0;  // 0: chosen by shape
};

// The first is of float outputs only.
inline constexpr Plan kAllTiles[] = {{128, 256}, {128, 128}, {64, 128}, {64, 64}};

struct Product {
  int64_t m = 0;
  LinearGroup linears;
  int64_t steps = 0;   // of K, of 128 bytes each
  bool codes = false;  // INT8, whose sums are scaled
  bool wide = false;   // there are tiles of 256 channels
};

inline int64_t Tiles(int64_t m, const LinearGroup& linears, const Plan& plan) {
  int64_t stripes = 0;
  for (int i = 0; i < linears.count; ++i) stripes += CeilDiv(linears.linear[i].n, plan.tile_n);
  return CeilDiv(m, plan.tile_m) * stripes;
}

// What each multiprocessor pays for a tile.
struct Cost {
  Plan plan;
  double cost = 0;
  double odd = 0;  // as a share of it: what an odd number of tiles costs more
};
// The first of those whose rounds take least.
inline Plan LeastOf(std::initializer_list<Cost> tiles, int64_t m, const LinearGroup& linears, int num_sms) {
  Plan best;
  double least = 0;
  for (const auto& [plan, cost, odd] : tiles) {
    const int64_t rounds = CeilDiv(Tiles(m, linears, plan), num_sms);
    const double whole = (static_cast<double>(rounds) + (rounds % 2 == 1 ? odd : 0)) * cost;
    if (best.tile_m == 0 || whole < least) {
      best = plan;
      least = whole;
    }
  }
  return best;
}

// What takes least, in steps of a tile of 128 x 128, as measured on an H200. Wide tiles read less from shared
// memory and L2, which leaves the card power for a higher clock, but nothing is multiplied while their
// outputs are made.
inline Plan PlanOf(const Product& product, int num_sms) {
  const auto steps = static_cast<double>(product.steps);
  const double wide =
      product.wide ? 1.86 * steps + (product.codes ? 13 : 6) : std::numeric_limits<double>::infinity();
  return LeastOf(
      {{{128, 128}, steps}, {{64, 128}, 0.65 * steps}, {{64, 64}, 0.6 * steps}, {{128, 256}, wide}},
      product.m, product.linears, num_sms);
}

// Whether 33 to 64 rows of codes take less here than in kernels/cuda/few_rows_wgmma.cuh, which shares out K
// but adds kept columns one after the other: as measured from 2048 x 2048 to 8192 x 28672. Narrow and long
// ones, not measured, are left to it.
inline bool BeatsFewRows(int64_t m, const LinearGroup& linears, int64_t steps, int num_sms) {
  bool keeps = false;
  for (int i = 0; i < linears.count; ++i) keeps = keeps || linears.linear[i].kept_w != nullptr;
  const double filled = static_cast<double>(Tiles(m, linears, {64, 64})) / num_sms;
  return m > 32 && (filled >= 0.7 || (keeps && (steps <= 32 || (steps <= 96 && filled >= 0.4))));
}

}  // namespace spikefold::kernels::cuda::pingpong
