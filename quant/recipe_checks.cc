#include "quant/recipe_checks.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/status.h"
#include "kernels/runtime/kv_options.h"

namespace spikefold {
namespace {

absl::Status CheckBudget(const Recipe& recipe, const Scheme& scheme) {
  const auto sane = [](double budget) { return std::isfinite(budget) && budget >= 0; };
  if (!sane(recipe.bits) || !sane(recipe.max_kld) || recipe.max_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat(BudgetWords(recipe), ": a budget is a positive number"));
  }
  if (!recipe.has_budget()) return absl::OkStatus();
  if ((recipe.bits > 0) + (recipe.max_bytes > 0) + (recipe.max_kld > 0) > 1) {
    return absl::InvalidArgumentError(absl::StrCat(BudgetWords(recipe), ": one budget at a time"));
  }
  const bool per_group = scheme.weight_scales == Granularity::kPerGroup;
  if (per_group && recipe.group_size == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(BudgetWords(recipe), per_group ? ": goes without a group size"
                                                  : ": the scheme has one way of storing weights"));
}

absl::Status CheckDynamicSites(const Recipe& recipe, const Scheme& scheme) {
  if (recipe.dynamic_sites < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("dynamic_sites=", recipe.dynamic_sites, " must not be negative"));
  }
  if (recipe.dynamic_sites == 0 || scheme.activation_scales == Granularity::kPerTensor) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("dynamic_sites=", recipe.dynamic_sites, ": scheme \"",
                                                 scheme.name, "\" has no static scales; use w8a8-static, ",
                                                 "w4a8-static or w4a4-static"));
}

}  // namespace

std::string BudgetWords(const Recipe& recipe) {
  std::vector<std::string> words;
  if (recipe.bits != 0) words.push_back(absl::StrCat("bits=", recipe.bits));
  if (recipe.max_bytes != 0) words.push_back(absl::StrCat("max_bytes=", recipe.max_bytes));
  if (recipe.max_kld != 0) words.push_back(absl::StrCat("max_kld=", recipe.max_kld));
  return absl::StrJoin(words, ", ");
}

absl::Status CheckCompanions(const Recipe& recipe, const Scheme& scheme) {
  const auto idle = [](absl::string_view wish, absl::string_view missing) {
    return absl::InvalidArgumentError(
        absl::StrCat(wish, ": goes with ", missing, "; add it or leave this out"));
  };
  if (recipe.random_bits && !recipe.has_budget()) {
    return idle("random_bits", "a budget (bits, max_bytes or max_kld)");
  }
  if (recipe.group_scales != GroupScales::kAuto && scheme.weight_scales != Granularity::kPerGroup) {
    return idle("group_scales", "a scheme of weights in groups");
  }
  const bool may_keep =
      recipe.keep_columns > 0 || (recipe.keep_columns < 0 && recipe.outliers != OutlierMode::kNone &&
                                  recipe.outliers != OutlierMode::kFold);
  if (recipe.random_columns && !may_keep) return idle("random_columns", "kept columns");
  if (recipe.dynamic_by != DynamicBy::kDamage && recipe.dynamic_sites == 0) {
    return idle("dynamic_by", "dynamic_sites");
  }
  if (recipe.smooth_search && scheme.activation_bits < 16) {
    return absl::InvalidArgumentError(absl::StrCat("smooth \"search\": is for weights alone, scheme \"",
                                                   scheme.name, "\" has activations of ",
                                                   scheme.activation_bits, " bits; use a number"));
  }
  return absl::OkStatus();
}

absl::Status CheckRecipe(const Recipe& recipe, const Scheme& scheme) {
  if (recipe.head_bits != 8 && recipe.head_bits != 16) {
    return absl::InvalidArgumentError(
        absl::StrCat("head_bits=", recipe.head_bits, "; use 8 or 16 for embedding and head"));
  }
  if (recipe.keep_columns < -1 || recipe.keep_modules < 0) {
    return absl::InvalidArgumentError("keep_columns and keep_modules must not be negative");
  }
  if (recipe.group_size != 0 && scheme.weight_scales != Granularity::kPerGroup) {
    return absl::InvalidArgumentError(absl::StrCat("group_size=", recipe.group_size, ": scheme \"",
                                                   scheme.name,
                                                   "\" has one scale an output channel; leave it out"));
  }
  if (recipe.weight_scales_set && recipe.weight_scales == ScaleMethod::kPercentile) {
    return absl::InvalidArgumentError("weight_scales=percentile: is for activations; use absmax or mse");
  }
  if (recipe.rotate.r3 && recipe.kv.window > 0) return EvictsBehindRotation();
  if (recipe.weight_scales_set && recipe.codes == Codes::kTrellis) {
    return absl::InvalidArgumentError(absl::StrCat("weight_scales=", ScaleMethodName(recipe.weight_scales),
                                                   ": trellis codes have scales of their own; use codes "
                                                   "\"grid\" or leave it out"));
  }
  SF_RETURN_IF_ERROR(CheckBudget(recipe, scheme));
  SF_RETURN_IF_ERROR(CheckDynamicSites(recipe, scheme));
  if (recipe.keep_rows && scheme.activation_bits == 16) {
    return absl::InvalidArgumentError(absl::StrCat("keep_rows: scheme \"", scheme.name,
                                                   "\" computes every row in float already; leave it out"));
  }
  return absl::OkStatus();
}

}  // namespace spikefold
