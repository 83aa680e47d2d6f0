// Which leading tokens, kept as keys and values, take the spikes away from the text (2410.05265, 2406.12016).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/window_run.h"

namespace spikefold {

struct PrefixSearchInput {
  const RuntimeModel& model;
  const Tokenizer& tokenizer;
  const Windows& windows;  // a few; each begins with BOS if the model wants it
  bool windows_lead_with_bos = false;
  // Tokens at positions > 0 whose down_proj input rows stand far above the others, the most frequent first;
  // and how many such rows a window has at most over the layers (rounded up).
  std::vector<int32_t> outlier_tokens;
  int64_t outliers_per_window = 0;
  Progress progress;
};
// All candidates with their measurements; at most one is chosen: of those that keep the float model's
// perplexity within 1 % and bring the largest site score below 64 or to half, the one with the lowest
// perplexity among those whose score is within 25 % of the lowest. BOS alone is preferred where the model
// wants BOS: it is then exact.
absl::StatusOr<std::vector<PrefixCandidate>> SearchPrefix(const PrefixSearchInput& input);

}  // namespace spikefold
