// Static scales of keys before rotary embedding, from their calibrated quantiles.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "calib/stats.h"
#include "formats/model_config.h"
#include "kernels/runtime/kv_options.h"

namespace spikefold {

// One scale and minimum a layer and channel, for `bits` bits. At 8 bits the grid covers all keys that were
// seen; below it covers the range that makes the mean of the errors' fourth powers least. InvalidArgument:
// bits other than 8, 4, 3, 2, or a layer without keys.
absl::StatusOr<std::shared_ptr<const KvChannels>> ChooseKeyScales(absl::Span<const KeyStats> keys,
                                                                  const ModelConfig& config, int bits);

}  // namespace spikefold
