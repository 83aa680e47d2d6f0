// spikefold quantize MODEL --scheme S -o DIR: the whole job. Scan and plan are made where they are not given.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/recipe_options.h"
#include "apps/spikefold/scan_command.h"

namespace spikefold {

struct QuantizeCommandOptions {
  std::string model, output;
  std::string scan, plan;  // a scan directory, a plan file; empty: made here
  RecipeOptions recipe;
  ScanTextOptions text;  // of a scan made here
  bool force = false;
};
absl::Status RunQuantize(const QuantizeCommandOptions& options, Context& context);

}  // namespace spikefold
