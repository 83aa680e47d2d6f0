// Which sites of a static scheme get per-token scales: where a static scale measurably does most to the
// model. (The shape of the values, such as largest over median, names other sites: docs/results.md.)
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/stats.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "kernels/runtime/model.h"
#include "quant/plan.h"
#include "quant/planner.h"

namespace spikefold {

struct DynamicSitesInput {
  const CheckpointReader* reader = nullptr;  // the model that is quantized, with its folds
  const OutlierMap* map = nullptr;           // of the scan, for DynamicBy::kScore
  const CalibStats* stats = nullptr;         // of `reader`, for its windows
  const Plan* plan = nullptr;                // with a static scale at every site
  bool behind_prefix = false;
  int max_windows = 4;  // of the scan's, whose first 256 tokens are run; not more than a half of them
  ThreadPool* pool = nullptr;
  Backend backend = Backend::kCpu;      // what runs the model
  std::string cache_directory;          // what was measured is kept as damage-<hash>.json; empty: nowhere
  std::string scan_sha256, arithmetic;  // as PrepareInput
  Progress progress;
};

struct SiteDamage {
  int site = 0;
  double fixed = 0;      // KL divergence, nats a token, with this site's inputs alone in static codes
  double per_token = 0;  // with scales a token; as `fixed` where that was not among the largest
  double gain() const { return fixed - per_token; }
};
// Of all static sites of the plan, in the graph's order. Per-token codes are tried on the 24 sites of largest
// damage, or on twice `count`. InvalidArgument: a scan without windows; Cancelled.
absl::StatusOr<std::vector<SiteDamage>> MeasureSiteDamage(const DynamicSitesInput& input, int count);

// recipe.dynamic_sites of them, by recipe.dynamic_by. InvalidArgument: there are fewer.
absl::StatusOr<std::vector<DynamicSite>> ChooseDynamicSites(const Recipe& recipe,
                                                            const DynamicSitesInput& input);

}  // namespace spikefold
