// What the weights alone tell about spikes: FFN units whose write to one channel is far larger than any
// ordinary unit's. Reads the model layer by layer.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"

namespace spikefold {

struct UnitStrength {
  float strength =
      0;  // max over k of |D[k,i]| * |g_i| * |u_i|; g, u: rows of gate and up with the norm's gain
  int32_t channel = 0;  // that k
  float value = 0;      // D[k,i] as stored
};
struct WeightCensus {
  std::vector<std::vector<UnitStrength>> units;     // [num_layers][intermediate]
  std::vector<double> median;                       // [num_layers] of the strengths
  std::vector<std::vector<double>> site_weight_sq;  // [num sites][k] as SiteStats::weight_sq
  // Strength over the layer's median unit.
  double Relative(int layer, int64_t unit) const {
    const size_t l = static_cast<size_t>(layer);
    return median[l] > 0 ? static_cast<double>(units[l][static_cast<size_t>(unit)].strength) / median[l] : 0;
  }
};
// A unit this many times as strong as its layer's median unit is flagged. Ordinary units' strengths spread
// like exp(0.5 z): the largest of 10^5 stays below 10.
inline constexpr double kFlagRelative = 20;

// For a gated FFN y = D ((act(G x)) * (U x)) a unit writes D[:,i] * (g.x) * (u.x) where act is near the
// identity: at most |D[k,i]| |g| |u| |x|^2. The formula is in 2603.05498; ranking by it alone in 2411.07191.
absl::StatusOr<WeightCensus> CensusWeights(const CheckpointReader& reader, ThreadPool& pool,
                                           const Progress& progress);

}  // namespace spikefold
