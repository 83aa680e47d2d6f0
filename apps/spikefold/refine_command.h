// spikefold refine MODEL-Q --reference MODEL --text FILE -o DIR: learns what costs no bits.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/learning_windows.h"

namespace spikefold {

struct RefineCommandOptions {
  std::string model, reference, output;
  LearningText text;
  double rate = 1e-3;
  bool force = false;
};
absl::Status RunRefine(const RefineCommandOptions& options, Context& context);

}  // namespace spikefold
