// Which engine a quantized model is for, and what of a recipe survives there (docs/export.md). Choosing
// before quantizing loses nothing afterwards: what an export would have to drop or widen is not used.
#pragma once

#include "absl/status/status.h"
#include "quant/plan.h"
#include "quant/recipe.h"
#include "quant/scheme.h"

namespace spikefold {

// What a target's formats and kernels cannot say.
struct TargetLimits {
  bool runs_here = false;         // everything is allowed
  bool sixteen_bit_head = false;  // embedding and head are 16 bit
  bool fine_activations = true;   // of fewer than 8 bits, or with zero points
  bool wide_zero_points = true;   // zero points of 8-bit codes
  bool coupled = false;           // q, k, v and gate, up share one format
  bool blocks_of_32 = false;      // groups are multiples of 32
};
TargetLimits LimitsOf(Target target);

// The recipe with what is left open decided for the target: codes on a grid, the head's bits. InvalidArgument
// naming the wish, the target and what to ask for instead, where a wish cannot survive: kept columns, rows
// and super weights, a prefix, rotations while the model runs, trellis codes, zero points or activations that
// its kernels do not have, a form of keys and values, a head of 8 bits that was asked for. INT8 activations
// are allowed for llama.cpp, which rounds its own way instead.
absl::StatusOr<Recipe> RecipeForTarget(Recipe recipe);

// Of a finished plan: kept parts, shifts, prefixes and formats of linears that must agree. InvalidArgument.
absl::Status CheckPlanForTarget(const Plan& plan);

}  // namespace spikefold
