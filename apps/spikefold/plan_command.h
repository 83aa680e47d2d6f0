// spikefold plan MODEL --scheme S -o plan.json: one decision a tensor, before anything is written.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/recipe_options.h"

namespace spikefold {

struct PlanCommandOptions {
  std::string model, output, scan;
  std::string rotate_from;  // what learn-rotations wrote
  std::string backend = "cpu";
  RecipeOptions recipe;
  bool dry_run = false;
};
absl::Status RunPlan(const PlanCommandOptions& options, Context& context);

}  // namespace spikefold
