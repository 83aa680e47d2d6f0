// spikefold merge PART... -o DIR: the parts that quantize --shard wrote become one model.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct MergeCommandOptions {
  std::vector<std::string> parts;
  std::string output;
  bool force = false;
};
absl::Status RunMerge(const MergeCommandOptions& options, Context& context);

}  // namespace spikefold
