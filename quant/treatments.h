// Which outlier treatments a model gets, before any tensor is looked at.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/stats.h"
#include "quant/recipe.h"
#include "quant/scheme.h"

namespace spikefold {

struct Treatments {
  bool fold = false;      // the scan's prefix tokens become a KV prefix; statistics are those behind it
  int keep_columns = 0;   // kept columns a site
  RotationChoice rotate;  // never automatic
  double smooth = 0;
  bool smooth_search = false;
  bool shift = false;  // means are taken off the linears' inputs
  double rescale = 1;  // the residual stream is divided by it
  std::string reason;  // in words, for people
};
// `map` and `stats` are null where no scan was made. InvalidArgument: a treatment that was asked for by name
// is impossible here (no scan, no prefix found, kept columns for a scheme without quantized activations).
absl::StatusOr<Treatments> ChooseTreatments(const Recipe& recipe, const Scheme& scheme, const OutlierMap* map,
                                            const CalibStats* stats);

// The largest |h| of the residual stream that the scan saw.
double ResidualPeak(const OutlierMap& map);

// What an automatic choice does instead where the residual stream may not be rotated (R1 was refused).
// `hidden`: the stream's width.
void WithoutResidualRotation(const Recipe& recipe, const Scheme& scheme, int64_t hidden,
                             Treatments& treatments);

}  // namespace spikefold
