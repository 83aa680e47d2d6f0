// How far a model has moved from itself: KL divergence from what it said before its weights were changed.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/runtime/kv_cache.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

class SelfDivergence {
 public:
  // Runs the windows behind `prefix` (may be empty) and keeps what leaves the last layer; the second half of
  // each window is scored. `model` outlives the object. InvalidArgument:
  // no window of two tokens or more.
  static absl::StatusOr<std::unique_ptr<SelfDivergence>> Create(
      const RuntimeModel& model, KvPrefix prefix, const std::vector<std::vector<int32_t>>& windows);
  virtual ~SelfDivergence() = default;
  // Mean KL divergence in nats a token, with the weights that the model has now. Its head must be what it
  // was.
  // Values of the model are changed by `edits` (may be null) while it runs. The layers before `first_layer`
  // are not run: they have what they had when this was first asked of them.
  virtual absl::StatusOr<double> Measure(Interventions* edits, int first_layer) = 0;
  absl::StatusOr<double> Measure() { return Measure(nullptr, 0); }
};

}  // namespace spikefold
