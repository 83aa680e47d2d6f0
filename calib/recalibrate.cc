#include "calib/recalibrate.h"

#include <algorithm>

#include "calib/census_weights.h"
#include "calib/observers/key_observer.h"
#include "calib/observers/site_observer.h"
#include "calib/window_run.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "kernels/runtime/forward.h"

namespace spikefold {
namespace {

Windows Spread(const Windows& all, int64_t max) {
  const int64_t count = static_cast<int64_t>(all.size());
  if (max <= 0 || max >= count) return all;
  Windows some;
  for (int64_t i = 0; i < max; ++i) some.push_back(all[static_cast<size_t>(i * count / max)]);
  return some;
}

}  // namespace

std::vector<std::vector<int32_t>> WindowsBehind(const std::vector<std::vector<int32_t>>& windows,
                                                const std::vector<int32_t>& prefix, int64_t bos_id) {
  const bool holds_bos = std::find(prefix.begin(), prefix.end(), bos_id) != prefix.end();
  std::vector<std::vector<int32_t>> out = windows;
  for (auto& window : out) {
    if (holds_bos && !window.empty() && window.front() == bos_id) window.erase(window.begin());
  }
  return out;
}

absl::StatusOr<CalibStats> Recalibrate(const RuntimeModel& model, const CheckpointReader& reader,
                                       const CalibStats& scan, const RecalibrateOptions& options) {
  if (scan.windows.empty()) {
    return absl::InvalidArgumentError("scan: it does not hold its text; scan again with this version");
  }
  if (options.behind_prefix && scan.prefix.empty()) {
    return absl::InvalidArgumentError("scan: it holds no prefix; use outliers \"none\" or \"keep\"");
  }
  CalibStats stats;
  stats.tool_version = ToolVersionAndCommit();
  SF_ASSIGN_OR_RETURN(stats.model_fingerprint, reader.Fingerprint());
  stats.tokenizer_fingerprint = scan.tokenizer_fingerprint;
  stats.text_sha256 = scan.text_sha256;
  stats.text_source = scan.text_source;
  stats.bos = scan.bos;
  stats.window_length = scan.window_length;
  stats.seed = scan.seed;
  stats.windows = scan.windows;
  stats.num_windows = static_cast<int64_t>(stats.windows.size());
  Windows windows = Spread(stats.windows, options.max_windows);
  if (options.behind_prefix) {
    SF_ASSIGN_OR_RETURN(stats.prefix, ComputePrefix(model, scan.prefix.tokens));
    windows = WindowsBehind(windows, scan.prefix.tokens, model.graph().config.bos_id);
  }
  SF_ASSIGN_OR_RETURN(WeightCensus weights, CensusWeights(reader, model.pool(), options.progress));
  SiteObserver sites(model.graph(), model.pool());
  KeyObserver keys(model.graph(), std::max<int64_t>(1, stats.prefix.size()), model.pool());
  TapFan taps({&sites, &keys});
  SF_RETURN_IF_ERROR(RunWindows(model, windows, options.behind_prefix ? &stats.prefix : nullptr, taps,
                                "calibrating the folded model", options.progress));
  stats.arms.push_back({.name = options.behind_prefix ? "prefix" : "plain",
                        .prefix = stats.prefix.tokens,
                        .sites = sites.Take(),
                        .keys = keys.Take()});
  for (SiteStats& site : stats.arms.front().sites) {
    site.weight_sq = std::move(weights.site_weight_sq[static_cast<size_t>(site.site)]);
  }
  return stats;
}

}  // namespace spikefold
