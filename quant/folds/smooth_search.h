// Channel scales for weights alone, site by site the ones that lead to the least error of the site's outputs:
// s = v^rho / sqrt(max v^rho * min v^rho), v the mean |X_j|, rho = 0, 1/20 ... 19/20 (J. Lin et al., "AWQ",
// 2306.00978, equations 4 and 5). The error is that of weights rounded to the nearest, channels taken as
// independent: it needs the statistics of a scan and no forward pass.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "calib/stats.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "quant/folds/folds.h"
#include "quant/scheme.h"

namespace spikefold {

struct SmoothSearch {
  const Scheme* scheme = nullptr;
  int group_size = 0;  // of the weights; 0: the scheme's default for the width, or one scale a channel
  bool weight_zeros = false;
  ThreadPool* pool = nullptr;
};

struct SearchedScales {
  SiteScales scales;             // all 1 where nothing is better
  double before = 0, after = 0;  // expected squared error of the outputs, a row
};
// As SmoothSite, whose refusals these are. Also InvalidArgument: quantized activations. (With the error of
// static codes in the sum, and the alphas of smooth.h among the candidates, the search did worse than one
// alpha for all sites: docs/results.md.)
absl::StatusOr<SearchedScales> SearchSiteScales(const CheckpointReader& model, const SiteStats& stats,
                                                const SmoothSearch& search);

}  // namespace spikefold
