// Which leading tokens, kept as keys and values, take the spikes away from the text (2410.05265, 2406.12016).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/eval_windows.h"
#include "calib/window_run.h"

namespace spikefold {

struct PrefixSearchInput {
  const RuntimeModel& model;
  const Tokenizer& tokenizer;
  const Windows& windows;  // a few; each begins with BOS if the model wants it
  bool windows_lead_with_bos = false;
  double plain_nll = 0;    // of these windows without a prefix (MeanNll)
  double plain_score = 0;  // largest site score of text without a prefix
  // Tokens at positions > 0 whose down_proj input rows stand far above the others, the most frequent first;
  // and how many such rows a window has at most over the layers (rounded up).
  std::vector<int32_t> outlier_tokens;
  int64_t outliers_per_window = 0;
  Progress progress;
};
// The windows as SearchPrefix scores them.
std::vector<EvalWindow> MakeProbeWindows(const Windows& windows, bool lead_with_bos);
// Mean negative log-likelihood of their scored tokens; `taps` watch.
absl::StatusOr<double> MeanNll(const RuntimeModel& model, const std::vector<EvalWindow>& windows,
                               const KvPrefix* prefix, Taps& taps, absl::string_view what,
                               const Progress& progress);

// All candidates with their measurements, the score being the worse of the windows' and of a text that begins
// with the prefix's own tokens; at most one is chosen: of those that keep the float model's perplexity within
// 1 % and bring the largest site score below 64 or to half, the one of the lowest score. (Taking a lower
// perplexity within 25 % of that score gave SmolLM2's w8a8-static, folded alone, 1.139 instead of 1.115.) BOS
// alone is preferred where the model wants BOS: it is then exact.
absl::StatusOr<std::vector<PrefixCandidate>> SearchPrefix(const PrefixSearchInput& input);

}  // namespace spikefold
