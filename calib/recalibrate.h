// Statistics of a model's linear inputs on the text of an earlier scan, without the census: for models that
// folds have rewritten, whose inputs have other ranges but the same meaning.
#pragma once

#include "absl/status/statusor.h"
#include "calib/stats.h"
#include "formats/base/progress.h"
#include "kernels/runtime/model.h"

namespace spikefold {

struct RecalibrateOptions {
  bool behind_prefix = false;  // the scan's prefix tokens are run through this model and kept as its prefix
  int64_t max_windows = 0;     // so many of the scan's, spread over its text; 0: all
  Progress progress;
};
// One arm, "prefix" or "plain", of the windows that were run; the text that the statistics hold is all of the
// scan's. `reader` is the model's: its weights give SiteStats::weight_sq, its
// fingerprint the provenance. InvalidArgument: a scan without windows, or without a prefix that is asked for.
absl::StatusOr<CalibStats> Recalibrate(const RuntimeModel& model, const CheckpointReader& reader,
                                       const CalibStats& scan, const RecalibrateOptions& options);

// The windows as they stand behind `prefix`: their own leading BOS goes where the prefix holds it.
std::vector<std::vector<int32_t>> WindowsBehind(const std::vector<std::vector<int32_t>>& windows,
                                                const std::vector<int32_t>& prefix, int64_t bos_id);

}  // namespace spikefold
