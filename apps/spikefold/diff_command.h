// spikefold diff A B: what differs between two quantized models, plans, scans or evaluations.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct DiffCommandOptions {
  std::string a, b;
};
// FailedPrecondition if anything differs. InvalidArgument: two kinds of things, or neither kind that is
// known.
absl::Status RunDiff(const DiffCommandOptions& options, Context& context);

}  // namespace spikefold
