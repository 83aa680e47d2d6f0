// spikefold inspect MODEL: what a checkpoint is, from its headers alone.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct InspectCommandOptions {
  std::string model;
};
absl::Status RunInspect(const InspectCommandOptions& options, Context& context);

}  // namespace spikefold
