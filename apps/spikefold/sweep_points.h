// Which recipes a sweep runs, each under a name of its own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/recipe.h"

namespace spikefold {

struct SweepPoint {
  std::string name;  // unique; names files: letters, digits, '.', '_', '-'
  Recipe recipe;
};

// The frontier from 8 to 2 bits, what treatments bring, and the controls that show it.
std::vector<SweepPoint> SweepGrid(uint64_t seed);

// From a file: a JSON array of recipes, each with an optional "name"; others are named by the scheme and what
// differs from its defaults. DataLoss: what RecipeFromJson refuses. InvalidArgument: no recipe, a name that
// stands there twice or cannot name a file.
absl::StatusOr<std::vector<SweepPoint>> ReadSweepPoints(const std::string& path);

// Whether the two may round weights alike, so that one can take the other's codes: they differ at most in
// what is done to activations, or one has a budget, which may be spent on the bits of the other. The plans
// decide (SharesRounding); this is asked before there are any.
bool MayShareCodes(const Recipe& a, const Recipe& b);

}  // namespace spikefold
