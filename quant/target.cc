#include "quant/target.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

absl::Status Cannot(const Recipe& recipe, absl::string_view wish, absl::string_view remedy) {
  return absl::InvalidArgumentError(absl::StrCat("target \"", TargetName(recipe.target), "\": ", wish,
                                                 " does not survive there; ", remedy,
                                                 ", or use target \"native\""));
}

bool IsIn(Role role, std::initializer_list<Role> roles) {
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

// Linears of one layer that an engine computes as one.
int FusedWith(Role role) {
  if (IsIn(role, {Role::kQProj, Role::kKProj, Role::kVProj})) return 1;
  return IsIn(role, {Role::kGateProj, Role::kUpProj}) ? 2 : 0;
}

}  // namespace

TargetLimits LimitsOf(Target target) {
  const bool vllm = target == Target::kVllm || target == Target::kAll;
  const bool llamacpp = target == Target::kLlamaCpp || target == Target::kAll;
  TargetLimits limits;
  limits.runs_here = target == Target::kNative;
  limits.sixteen_bit_head = vllm;
  limits.fine_activations = limits.runs_here;  // vLLM has no kernels, llama.cpp rounds to INT8 its own way
  limits.wide_zero_points = !llamacpp;
  limits.coupled = vllm;
  limits.blocks_of_32 = llamacpp;
  return limits;
}

absl::StatusOr<Recipe> RecipeForTarget(Recipe recipe) {
  const TargetLimits limits = LimitsOf(recipe.target);
  if (limits.runs_here) return recipe;
  SF_ASSIGN_OR_RETURN(const Scheme* const scheme, FindScheme(recipe.scheme));
  const OutlierMode mode = recipe.outliers;
  if (mode == OutlierMode::kFold || mode == OutlierMode::kFoldKeep) {
    return Cannot(recipe, "a KV prefix", "use outliers \"auto\" or \"none\"");
  }
  if (mode == OutlierMode::kKeep || recipe.keep_columns > 0) {
    return Cannot(recipe, "a kept column beside codes", "keep whole modules with --keep");
  }
  if (recipe.keep_rows) return Cannot(recipe, "float arithmetic for spike rows", "leave out --keep-rows");
  if (recipe.keep_super_weights) {
    return Cannot(recipe, "an exact weight beside codes", "leave out --keep-super-weights");
  }
  if (recipe.rotate.r3 || recipe.rotate.r4) {
    return Cannot(recipe, "a rotation while the model runs", "use --rotate offline");
  }
  if (recipe.codes == Codes::kTrellis) return Cannot(recipe, "a trellis", "use --codes grid");
  recipe.codes = Codes::kGrid;
  if (recipe.shift == Shift::kMean) return Cannot(recipe, "a shift of inputs", "use --shift none");
  recipe.shift = Shift::kNone;
  const bool activation_zeros =
      recipe.zero_points == ZeroPoints::kActivations || recipe.zero_points == ZeroPoints::kBoth;
  const bool weight_zeros =
      recipe.zero_points == ZeroPoints::kWeights || recipe.zero_points == ZeroPoints::kBoth;
  if (!limits.fine_activations) {
    if (scheme->activation_bits < 8 || scheme->activation_scales == Granularity::kPerGroup) {
      return Cannot(
          recipe,
          absl::StrCat("scheme ", scheme->name, "'s activations of ", scheme->activation_bits, " bits"),
          "use w8a8, w8a8-static, w8a16 or w4a16");
    }
    if (activation_zeros || (!scheme->activations_symmetric && recipe.zero_points == ZeroPoints::kAuto)) {
      return Cannot(recipe, "a zero point of activations", "use --zero-points none or weights");
    }
  }
  if (!limits.wide_zero_points && scheme->weight_bits == 8 && weight_zeros) {
    return Cannot(recipe, "a zero point of 8-bit codes", "use --zero-points none");
  }
  if (limits.blocks_of_32 && recipe.group_size % 32 != 0) {
    return Cannot(recipe, absl::StrCat("a group of ", recipe.group_size), "use a multiple of 32");
  }
  if (recipe.kv != KvChoice()) {
    return Cannot(recipe, "a form of keys and values", "leave out --kv and choose it in the engine");
  }
  if (limits.sixteen_bit_head && recipe.head_bits != 16) {
    if (recipe.head_bits_set) {
      return Cannot(recipe, absl::StrCat("a head of ", recipe.head_bits, " bits"),
                    "leave out --head-bits or give 16");
    }
    recipe.head_bits = 16;
  }
  return recipe;
}

absl::Status CheckPlanForTarget(const Plan& plan) {
  const TargetLimits limits = LimitsOf(plan.recipe.target);
  if (limits.runs_here) return absl::OkStatus();
  if (!plan.prefix.empty()) return Cannot(plan.recipe, "the plan's prefix", "plan again");
  std::map<std::pair<int, int>, const TensorDecision*> first;  // of a layer and what is fused
  for (const TensorDecision& d : plan.linears) {
    if (!d.kept.empty() || !d.supers.empty() || d.trellis || d.spike_threshold > 0) {
      return Cannot(plan.recipe, absl::StrCat("what ", d.module, " keeps beside a grid"), "plan again");
    }
    if (limits.blocks_of_32 && d.weight_bits < 16 && (d.group_size % 32 != 0 || d.k % 32 != 0)) {
      return d.k % 32 != 0
                 ? Cannot(plan.recipe, absl::StrCat(d.module, ": rows of ", d.k, " weights in blocks of 32"),
                          "use --keep for this module")
                 : Cannot(plan.recipe,
                          absl::StrCat(d.module, ": rows of ", d.k, " in groups of ", d.group_size),
                          "use --group-size 32, or --keep for this module");
    }
    const int fused = FusedWith(d.role);
    if (!limits.coupled || fused == 0) continue;
    const auto [it, is_first] = first.try_emplace({d.layer, fused}, &d);
    const TensorDecision& other = *it->second;
    const bool same = other.weight_bits == d.weight_bits && other.group_size == d.group_size &&
                      other.weight_zeros == d.weight_zeros && other.activation_bits == d.activation_bits &&
                      other.activation_static == d.activation_static;
    if (is_first || same) continue;
    return Cannot(
        plan.recipe,
        absl::StrCat("another format of ", d.module, " (", d.weight_bits, " bits) than of ", other.module,
                     " (", other.weight_bits, " bits), which the engine multiplies at once,"),
        "leave out the budget, or keep them together");
  }
  return absl::OkStatus();
}

}  // namespace spikefold
