// What a scan asks beyond its text (ScanOptions::anatomy): which tokens spike when they stand first, and
// whether sinks need natural text.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "calib/census.h"

namespace spikefold {

struct AnatomyProbeInput {
  const RuntimeModel& model;
  const Tokenizer& tokenizer;
  int64_t max_tokens = 8192;  // of the vocabulary, evenly spread; each runs alone as far as the last step up
  uint64_t seed = 1;
  const Progress& progress;
};
// Fills SpikeStage::vocabulary_share and OutlierMap::probes from the stages that `map` has.
absl::Status ProbeAnatomy(const AnatomyProbeInput& input, OutlierMap& map);

}  // namespace spikefold
