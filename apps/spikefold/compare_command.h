// spikefold compare SCAN SCAN...: the anatomy of several models side by side.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct CompareCommandOptions {
  std::vector<std::string> scans;
};
absl::Status RunCompare(const CompareCommandOptions& options, Context& context);

}  // namespace spikefold
