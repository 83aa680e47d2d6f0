// Static per-tensor activation scales from calibration histograms.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "calib/stats.h"
#include "quant/recipe.h"

namespace spikefold {

// Expected squared error of symmetric int8 codes at scale s, summed over what a histogram saw:
//   v < s/2: v^2;   v <= 127.5 s: s^2/12;   above: (v - 127 s)^2
double HistogramError(absl::Span<const uint32_t> histogram /* [kMagnitudeBins] */, double scale);

struct ActivationScale {
  float scale = 1;           // x is about code * scale
  double error = 0;          // weighted squared error a row at this scale
  double clipped_share = 0;  // share of non-kept values beyond 127.5 scales
};
// `kept` (ascending) is left out, and so is what lies above `ceiling` (> 0): rows that are computed in float.
// Channels are weighted by SiteStats::weight_sq: the error of the linears'
// outputs, METHODS-style min ||(Q(x) - x) W^T||^2 with independent channel errors.
ActivationScale ChooseActivationScale(const SiteStats& stats, absl::Span<const int32_t> kept,
                                      ScaleMethod method, float ceiling = 0);

}  // namespace spikefold
