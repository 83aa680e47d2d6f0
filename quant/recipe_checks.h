// Wishes that cannot be met whatever the model: found before anything is scanned or loaded.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "quant/recipe.h"
#include "quant/scheme.h"

namespace spikefold {

// InvalidArgument: numbers out of range, a budget that the scheme cannot spend, or two; what its activations
// or weights have no use for.
absl::Status CheckRecipe(const Recipe& recipe, const Scheme& scheme);

// Of what a user asks for: wishes that only say how another wish is met, without that other. InvalidArgument.
absl::Status CheckCompanions(const Recipe& recipe, const Scheme& scheme);

std::string BudgetWords(const Recipe& recipe);  // "bits=4.31"

}  // namespace spikefold
