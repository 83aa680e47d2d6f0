// Around every command: vector instructions before it, exceptions behind it.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

// `name` may be empty: this CPU's best. InvalidArgument: unknown, or the CPU has them not.
absl::Status ChooseIsa(const std::string& name);

// ResourceExhausted for memory and threads that are not there; Internal for any other exception.
absl::Status RunGuarded(const std::function<absl::Status(Context&)>& run, Context& context);

}  // namespace spikefold
