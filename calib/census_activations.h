// Spike stages, their writers and removers, and super weights, as the activations show them; reconciled with
// the weight census.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/census_weights.h"
#include "calib/observers/life_observer.h"
#include "calib/window_run.h"

namespace spikefold {

struct ActivationCensus {
  std::vector<SpikeStage> stages;
  std::vector<SuperWeightRef> super_weights;
  std::vector<std::string> notes, warnings;
};
struct ActivationCensusInput {
  const RuntimeModel& model;
  const CheckpointReader& reader;
  const Tokenizer& tokenizer;
  const WeightCensus& weights;
  const LifeTable& life;                          // of `windows`
  const Windows& windows;                         // those that `life` saw, in order
  std::function<absl::Status(Taps&)> look_again;  // runs some windows, for units and channels
};
absl::StatusOr<ActivationCensus> CensusActivations(const ActivationCensusInput& input);

}  // namespace spikefold
