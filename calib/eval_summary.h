// From row scores to EvalResult: the statistics, without any model.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/evaluate.h"
#include "calib/score_rows.h"

namespace spikefold {

// Fewer window means give no usable standard error of the ratio: it comes from tokens.
inline constexpr int64_t kMinWindowsForError = 20;

// Scores of one window, in order of position.
using WindowScores = std::vector<RowScore>;

// Fills the metrics of `result` from the paired scores: perplexities, ratio, KLD, same-top, delta p, their
// errors, percentiles and position buckets. If any row is not finite, perplexity, ratio and mean KLD are
// infinite and the percentiles are those of the finite rows.
void Summarize(const std::vector<WindowScores>& windows, EvalResult& result);

}  // namespace spikefold
