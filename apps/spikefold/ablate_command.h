// spikefold ablate MODEL --text FILE: what a model loses without its spikes and its sink.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct AblateCommandOptions {
  std::string model;
  std::vector<std::string> texts;
  std::string scan;    // empty: scans the text first
  std::string output;  // ablate.json; empty: none
  int64_t windows = 8, context = 512;
};
absl::Status RunAblate(const AblateCommandOptions& options, Context& context);

}  // namespace spikefold
