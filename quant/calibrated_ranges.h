// What calibration saw at the inputs with a static scale, for a checkpoint's sidecar: so that an evaluation
// can tell a text that goes beyond it (calib/static_ranges.h).
#pragma once

#include "calib/stats.h"
#include "formats/base/json.h"
#include "quant/plan.h"

namespace spikefold {

// [{"site", "beyond": share of values beyond the codes' range, "column_peaks"}] of the static sites; null if
// there are none.
Json CalibratedRanges(const Plan& plan, const ModelGraph& graph, const StatsArm& arm);

}  // namespace spikefold
