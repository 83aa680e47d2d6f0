// Around every command: exceptions become errors.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

// ResourceExhausted for memory and threads that are not there; Internal for any other exception.
absl::Status RunGuarded(const std::function<absl::Status(Context&)>& run, Context& context);

}  // namespace spikefold
