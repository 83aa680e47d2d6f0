// Channel scales from calibration statistics: s_j = max|X_j|^alpha / max_n|W[n,j]|^(1 - alpha), both at least
// 1e-5, the weights' maximum over all linears of the site. SmoothQuant (2211.10438), equation 4; here on all
// four sites, since down_proj and o_proj decide on small models.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "calib/stats.h"
#include "formats/checkpoint.h"
#include "quant/folds/folds.h"

namespace spikefold {

// Of one site, whose statistics were taken on `model`: the float model, with the offline folds that it will
// have (gains, R1, R2) if any. Of kCtx the maximum over the query heads of a KV head counts.
// InvalidArgument: alpha outside [0, 1], statistics of another site or width, a site that takes no scales
// (the head's), or one that is rotated online (its channels are no channels of the model).
absl::StatusOr<SiteScales> SmoothSite(const CheckpointReader& model, const SiteStats& stats, double alpha);
// Of every site of the blocks.
absl::StatusOr<std::vector<SiteScales>> SmoothScales(const CheckpointReader& model, const StatsArm& arm,
                                                     double alpha);

}  // namespace spikefold
