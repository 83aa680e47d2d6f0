// Super weights (2411.07191): scalars of down_proj that carry a spike from one FFN unit to one channel.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/census_weights.h"
#include "calib/window_run.h"

namespace spikefold {

// The row with the largest down_proj input of each layer.
class DownProjObserver : public Taps {
 public:
  explicit DownProjObserver(int64_t num_layers) : layers_(static_cast<size_t>(num_layers)) {}
  struct Layer {
    float input = 0;  // the largest |a|, with its sign
    int64_t unit = -1;
    std::vector<float> row;  // [intermediate] the row that holds it
  };
  bool Wants(int layer, ValueKind value) const override { return layer >= 0 && value == ValueKind::kDownIn; }
  void OnRows(const TapRows& rows) override;
  const std::vector<Layer>& layers() const { return layers_; }

 private:
  std::vector<Layer> layers_;
};

// By activations: in one layer both max |down_proj input| (its unit i) and |down_proj output| of that
// row (its channel c) exceed 50, and a_i * D[c,i] makes up most of that output; channels of at least half
// that output count as well. By weights: the strongest channel of a flagged unit. Ordered by layer, row,
// column.
absl::StatusOr<std::vector<SuperWeightRef>> FindSuperWeights(const CheckpointReader& reader,
                                                             const WeightCensus& weights,
                                                             const DownProjObserver& seen);

// Row `row` of the down_proj of a layer.
absl::StatusOr<std::vector<float>> DownProjRow(const CheckpointReader& reader, int layer, int64_t row);

}  // namespace spikefold
