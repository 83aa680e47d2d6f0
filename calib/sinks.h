// Attention sinks: how much attention each head gives to position 0, and how small its values are.
#pragma once

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/window_run.h"

namespace spikefold {

// Definition of 2410.10781: alpha = mean over query rows of the attention on position 0, at T = 64 tokens; a
// head with alpha > 0.3 holds a sink.
inline constexpr int64_t kSinkLength = 64;
inline constexpr double kSinkMass = 0.3;

// Runs the windows, which others may watch too.
absl::StatusOr<SinkMap> MapSinks(const RuntimeModel& model, const Windows& windows,
                                 const std::vector<Taps*>& watchers, const Progress& progress);

}  // namespace spikefold
