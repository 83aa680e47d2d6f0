// spikefold refine MODEL-Q --reference MODEL --text FILE -o DIR: learns what costs no bits.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct RefineCommandOptions {
  std::string model, reference, output;
  std::vector<std::string> texts;
  int64_t windows = 256, length = 256;
  double rate = 1e-3;
  std::string backend = "cpu";
  bool force = false;
};
absl::Status RunRefine(const RefineCommandOptions& options, Context& context);

}  // namespace spikefold
