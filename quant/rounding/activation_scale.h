// Static per-tensor activation scales from calibration histograms.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "calib/stats.h"
#include "quant/recipe.h"

namespace spikefold {

// Expected squared error of the codes -hi .. hi at scale s, summed over what a histogram saw:
//   v < s/2: v^2;   v <= (hi + 1/2) s: s^2/12;   above: (v - hi s)^2
// What lies above `ceiling` (> 0) is left out.
double HistogramError(absl::Span<const uint32_t> histogram /* [kMagnitudeBins] */, double scale, int hi = 127,
                      float ceiling = 0);

struct ActivationScale {
  float scale = 1;  // x is about (code - zero) * scale
  int zero = 0;
  double error = 0;          // weighted squared error a row at this scale, codes around 0
  double clipped_share = 0;  // share of non-kept values beyond the largest code's
};
// `kept` (ascending) is left out, and so is what lies above `ceiling` (> 0): rows that are computed in float.
// Channels are weighted by SiteStats::weight_sq: the error of the linears'
// outputs, METHODS-style min ||(Q(x) - x) W^T||^2 with independent channel errors.
ActivationScale ChooseActivationScale(const SiteStats& stats, absl::Span<const int32_t> kept,
                                      ScaleMethod method, float ceiling = 0, int hi = 127);
// Turns a choice of codes -hi .. hi into one of lo .. hi with a zero point: the same clipping, but only over
// the range that was seen.
void AddZeroPoint(const SiteStats& stats, absl::Span<const int32_t> kept, int lo, int hi,
                  ActivationScale& chosen);

}  // namespace spikefold
