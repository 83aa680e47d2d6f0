// Scales of rotary pairs for caches that scale keys by row or block: a channel of large keys then takes less
// of the codes from the others. Caches with a scale for each channel have no use for them.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/stats.h"
#include "formats/model_config.h"
#include "quant/folds/folds.h"

namespace spikefold {

// 2^round(alpha * log2(size / mean)) for each pair, `size` the larger key of its channels that one row in 64
// exceeds, `mean` the geometric one of the head. Powers of two keep every digit of weights and gains, and all
// codes of weights. With QK-norm heads are scaled alike, by the largest. InvalidArgument: alpha outside [0,
// 1].
absl::StatusOr<std::vector<QkScales>> ChooseQkScales(absl::Span<const KeyStats> keys,
                                                     const ModelConfig& config, double alpha);

}  // namespace spikefold
