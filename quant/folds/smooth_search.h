// Channel scales that are chosen site by site, by the error of the site's outputs that they lead to. Of the
// formula of smooth.h (2211.10438) several alphas are tried; and, after J. Lin et al., "AWQ" (2306.00978,
// equations 4 and 5), s = v^rho / sqrt(max v^rho * min v^rho), v the mean |X_j|. The error is that of
// rounding weights to the nearest and activations to one static scale, channels taken as independent: it
// needs the statistics of a scan and no forward pass.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "calib/stats.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "quant/folds/folds.h"
#include "quant/recipe.h"
#include "quant/scheme.h"

namespace spikefold {

struct SmoothSearch {
  const Scheme* scheme = nullptr;
  int group_size = 0;  // of the weights; 0: the scheme's default for the width, or one scale a channel
  bool weight_zeros = false;
  ScaleMethod activation_scales = ScaleMethod::kMse;  // of static activations
  ThreadPool* pool = nullptr;
};

struct SearchedScales {
  SiteScales scales;             // all 1 where nothing is better
  double before = 0, after = 0;  // expected squared error of the outputs, a row
};
// As SmoothSite, whose refusals these are. Also InvalidArgument: activations with scales a token or group,
// whose error statistics of channels do not tell.
absl::StatusOr<SearchedScales> SearchSiteScales(const CheckpointReader& model, const SiteStats& stats,
                                                const SmoothSearch& search);

}  // namespace spikefold
