// Which linears get how many bits: a budget of mean bits a weight is spent where it takes most damage away.
//
// A unit is all linears of one role in a few neighbouring layers. Its loss when stored in a certain way is
// the measured loss of a probe (storage_costs.h) times the squared rounding error relative to the probe's;
// losses of units add up. Both are approximations that rank well: the damage of an error is nearly
// quadratic, and units are rounded independently.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/model_graph.h"

namespace spikefold {

// Of the probe that losses are measured with: enough damage to stand out of the noise, little enough to add
// up.
inline constexpr int kStorageProbeBits = 4;

struct StorageChoice {
  int bits = 4;          // 2, 3, 4 or 8
  int group = 0;         // columns that share a scale; 0: one a channel, without zero points
  bool trellis = false;  // 2 to 6 bits, one scale a channel
};

struct StorageOption : StorageChoice {
  double bits_a_weight = 0;  // everything stored but biases
  double error = 1;          // squared rounding error over the probe's
};

struct StorageUnit {
  Role role = Role::kQProj;
  int first_layer = 0, last_layer = 0;  // inclusive
  int64_t num_weights = 0;
  double loss = 0;                     // KL divergence, in nats a token, when the unit alone is probed
  std::vector<StorageOption> options;  // any order
};

struct StoragePlan {
  std::vector<StorageChoice> choices;  // one a unit
  double bits = 0, loss = 0;           // mean bits a weight; expected KL divergence
};
// Least expected loss with at most `budget` bits a weight: every unit starts with its smallest option, then
// the step along the units' convex hulls that buys most per bit is taken as long as it fits.
// InvalidArgument: the smallest options alone exceed the budget; a unit without options.
absl::StatusOr<StoragePlan> SpendBits(absl::Span<const StorageUnit> units, double budget);

}  // namespace spikefold
