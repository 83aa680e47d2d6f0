// spikefold learn-rotations MODEL --scheme S --text FILE -o FILE: R1 and R2 that are learnt instead of drawn.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/learning_windows.h"
#include "apps/spikefold/recipe_options.h"

namespace spikefold {

struct LearnRotationsCommandOptions {
  std::string model, output;
  std::string scan;  // what scan wrote; empty: none
  RecipeOptions recipe;
  LearningText text;
  double rate = 0.02;
};
absl::Status RunLearnRotations(const LearnRotationsCommandOptions& options, Context& context);

}  // namespace spikefold
