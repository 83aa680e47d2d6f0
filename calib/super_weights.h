// Super weights (2411.07191): scalars of down_proj that carry a spike from one FFN unit to one channel.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/census_weights.h"
#include "calib/window_run.h"

namespace spikefold {

// By activations: in one layer both max |down_proj input| (its unit i) and max |down_proj output| (its
// channel c) exceed 50, and a_i * D[c,i] makes up most of that output. By weights: the strongest channel of a
// flagged unit. Ordered by layer, row, column.
absl::StatusOr<std::vector<SuperWeightRef>> FindSuperWeights(const RuntimeModel& model,
                                                             const CheckpointReader& reader,
                                                             const WeightCensus& weights,
                                                             const Windows& windows,
                                                             const Progress& progress);

// Row `row` of the down_proj of a layer.
absl::StatusOr<std::vector<float>> DownProjRow(const CheckpointReader& reader, int layer, int64_t row);

}  // namespace spikefold
