// spikefold folds MODEL: which exact rewrites a model allows, and the proof that each changes nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct FoldsCommandOptions {
  std::string model;
  std::vector<std::string> texts;  // empty: the model writes its own
  std::string rotate_from;         // what learn-rotations wrote; empty: random orthogonal matrices
  int64_t windows = 4, length = 128;
};
// FailedPrecondition, after the table: a fold is not exact.
absl::Status RunFolds(const FoldsCommandOptions& options, Context& context);

}  // namespace spikefold
