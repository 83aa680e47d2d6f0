// spikefold gate --thresholds gate.json EVAL...: exit code 0 only if every threshold holds.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct GateCommandOptions {
  std::vector<std::string> evals;
  std::string thresholds, junit, markdown;
};
// FailedPrecondition unless all pass; results are printed and written all the same.
absl::Status RunGate(const GateCommandOptions& options, Context& context);

}  // namespace spikefold
