#include "apps/spikefold/recipe_options.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "apps/spikefold/text.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "quant/planner.h"
#include "quant/recipe_checks.h"
#include "quant/scheme.h"
#include "quant/target.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxRecipeBytes = uint64_t{1} << 20;

absl::StatusOr<Recipe> ReadRecipe(const std::string& path) {
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxRecipeBytes));
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  return RecipeFromJson(json, path);
}

}  // namespace

bool RecipeOptions::any() const {
  return !file.empty() || !scheme.empty() || target || outliers || rotate || rounding || codes || shift ||
         zero_points || group_scales || smooth || rescale || qk_smooth || activation_scales ||
         weight_scales || group_size || bits || max_bytes || max_kld || keep_columns || keep_modules ||
         dynamic_sites || dynamic_by || head_bits || random_columns || random_bits || keep_rows ||
         keep_super_weights || !keep.empty() || kv.any();
}

absl::StatusOr<Recipe> BuildRecipe(const RecipeOptions& options, std::optional<uint64_t> seed) {
  Recipe recipe;
  if (!options.file.empty()) {
    SF_ASSIGN_OR_RETURN(recipe, ReadRecipe(options.file));
  }
  recipe.seed = seed.value_or(recipe.seed);
  if (!options.scheme.empty()) recipe.scheme = options.scheme;
  SF_RETURN_IF_ERROR(FindScheme(recipe.scheme).status());
  if (options.target) {
    SF_ASSIGN_OR_RETURN(recipe.target, ParseTarget(*options.target));
  }
  if (options.outliers) {
    SF_ASSIGN_OR_RETURN(recipe.outliers, ParseOutlierMode(*options.outliers));
  }
  if (options.rotate) {
    SF_ASSIGN_OR_RETURN(recipe.rotate, ParseRotations(*options.rotate));
  }
  if (options.rounding) {
    SF_ASSIGN_OR_RETURN(recipe.rounding, ParseRounding(*options.rounding));
  }
  if (options.shift) {
    SF_ASSIGN_OR_RETURN(recipe.shift, ParseShift(*options.shift));
  }
  if (options.codes) {
    SF_ASSIGN_OR_RETURN(recipe.codes, ParseCodes(*options.codes));
  }
  if (options.zero_points) {
    SF_ASSIGN_OR_RETURN(recipe.zero_points, ParseZeroPoints(*options.zero_points));
  }
  if (options.group_scales) {
    SF_ASSIGN_OR_RETURN(recipe.group_scales, ParseGroupScales(*options.group_scales));
  }
  if (options.dynamic_by) {
    SF_ASSIGN_OR_RETURN(recipe.dynamic_by, ParseDynamicBy(*options.dynamic_by));
  }
  recipe.dynamic_sites = options.dynamic_sites.value_or(recipe.dynamic_sites);
  if (options.smooth) {
    recipe.smooth_search = *options.smooth == "search";
    recipe.smooth = 0;
    if (!recipe.smooth_search && !absl::SimpleAtod(*options.smooth, &recipe.smooth)) {
      return absl::InvalidArgumentError(absl::StrCat("--smooth \"", Printable(*options.smooth),
                                                     "\": give a number from 0 to 1, or \"search\""));
    }
  }
  recipe.qk_smooth = options.qk_smooth.value_or(recipe.qk_smooth);
  if (options.rescale) SF_RETURN_IF_ERROR(ParseRescale(*options.rescale, recipe));
  if (options.activation_scales) {
    SF_ASSIGN_OR_RETURN(recipe.activation_scales, ParseScaleMethod(*options.activation_scales));
    recipe.activation_scales_set = true;
  }
  if (options.weight_scales) {
    SF_ASSIGN_OR_RETURN(recipe.weight_scales, ParseScaleMethod(*options.weight_scales));
    recipe.weight_scales_set = true;
  }
  if (options.bits == 0.0 || options.max_kld == 0.0) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.bits == 0.0 ? "--bits" : "--max-kld", " 0: a budget is a positive number"));
  }
  recipe.bits = options.bits.value_or(recipe.bits);
  recipe.max_kld = options.max_kld.value_or(recipe.max_kld);
  if (options.max_bytes) {
    SF_ASSIGN_OR_RETURN(const uint64_t bytes, ParseBytes("--max-bytes", *options.max_bytes));
    if (bytes == 0) return absl::InvalidArgumentError("--max-bytes 0: a budget is a positive number");
    recipe.max_bytes = static_cast<int64_t>(bytes);
  }
  recipe.group_size = options.group_size.value_or(recipe.group_size);
  recipe.keep_columns = options.keep_columns.value_or(recipe.keep_columns);
  recipe.keep_modules = options.keep_modules.value_or(recipe.keep_modules);
  if (options.head_bits) {
    recipe.head_bits = *options.head_bits;
    recipe.head_bits_set = true;
  }
  recipe.random_columns = recipe.random_columns || options.random_columns;
  recipe.random_bits = recipe.random_bits || options.random_bits;
  recipe.keep_rows = recipe.keep_rows || options.keep_rows;
  recipe.keep_super_weights = recipe.keep_super_weights || options.keep_super_weights;
  recipe.keep.insert(recipe.keep.end(), options.keep.begin(), options.keep.end());
  SF_RETURN_IF_ERROR(SetKv(options.kv, recipe.kv));
  SF_ASSIGN_OR_RETURN(recipe, RecipeForTarget(std::move(recipe)));
  SF_ASSIGN_OR_RETURN(const Scheme* scheme, FindScheme(recipe.scheme));
  if (options.activation_scales && scheme->activation_scales != Granularity::kPerTensor) {
    return absl::InvalidArgumentError(
        absl::StrCat("--activation-scales: scheme \"", scheme->name,
                     "\" has no static scales; use one of \"...-static\" or leave this out"));
  }
  return recipe;
}

absl::Status CheckRecipe(const Recipe& recipe, const ModelGraph& graph) {
  SF_ASSIGN_OR_RETURN(const Scheme* scheme, FindScheme(recipe.scheme));
  SF_RETURN_IF_ERROR(CheckRecipe(recipe, *scheme));
  SF_RETURN_IF_ERROR(CheckCompanions(recipe, *scheme));
  SF_RETURN_IF_ERROR(CheckKvChoice(recipe.kv, graph));
  Recipe plain = recipe;  // without the parts that ask a scan
  plain.outliers = OutlierMode::kNone;
  plain.keep_columns = -1;
  if (recipe.keep_modules > 0) plain.group_size = 0;  // which only linears that are left have to fit
  plain.keep_modules = 0;
  plain.dynamic_sites = 0;
  plain.smooth = 0;
  plain.smooth_search = false;
  plain.rescale_auto = false;
  plain.qk_smooth = 0;
  plain.shift = Shift::kNone;
  plain.bits = plain.max_kld = 0;
  plain.max_bytes = 0;
  plain.rounding = Rounding::kNearest;
  const bool keeps = recipe.outliers == OutlierMode::kKeep || recipe.outliers == OutlierMode::kFoldKeep ||
                     recipe.keep_columns > 0 || recipe.keep_super_weights;
  if (keeps && plain.codes == Codes::kAuto) plain.codes = Codes::kGrid;
  plain.keep_super_weights = false;
  if (scheme->activation_bits < 16) plain.keep_rows = false;
  if (scheme->activation_scales == Granularity::kPerTensor) {
    plain.scheme = scheme->weight_scales == Granularity::kPerGroup ? "w4a8" : "w8a8";
  }
  // Whether the residual stream can be rotated is seen when it is.
  const bool may_rotate =
      recipe.rotate.r1 || (recipe.rotate.automatic && recipe.outliers == OutlierMode::kAuto);
  return MakePlan(plain, {.graph = &graph, .folds = {.rotated = may_rotate}}).status();
}

absl::StatusOr<std::shared_ptr<const LearnedRotations>> ReadRotations(const std::string& path) {
  if (path.empty()) return nullptr;
  SF_ASSIGN_OR_RETURN(LearnedRotations rotations, LoadRotations(path));
  return std::make_shared<const LearnedRotations>(std::move(rotations));
}

absl::StatusOr<bool> NeedsScan(const Recipe& recipe) {
  SF_ASSIGN_OR_RETURN(const Scheme* scheme, FindScheme(recipe.scheme));
  const bool keeps = recipe.keep_columns > 0 || recipe.keep_modules > 0 || recipe.keep_rows ||
                     recipe.keep_super_weights || recipe.smooth > 0 || recipe.smooth_search ||
                     recipe.rescale_auto || recipe.qk_smooth != 0 || recipe.shift == Shift::kMean ||
                     recipe.has_budget() || recipe.rounding == Rounding::kGptq;
  // Weights of few bits are clipped by importance, which is what the scan saw of their inputs.
  const bool paths = recipe.codes == Codes::kTrellis && recipe.rounding == Rounding::kNearest;
  const bool clips = scheme->weight_bits < 8 && !paths &&
                     (!recipe.weight_scales_set || recipe.weight_scales == ScaleMethod::kMse);
  const bool treats = recipe.outliers == OutlierMode::kAuto ? scheme->activation_bits < 16
                                                            : recipe.outliers != OutlierMode::kNone;
  const bool static_keys = recipe.kv.k_scale == 'c';
  return keeps || static_keys || clips || treats || scheme->activation_scales == Granularity::kPerTensor;
}

PrepareInput MakePrepareInput(const CheckpointReader& reader, const LoadedScan* scan,
                              const std::string& scan_directory, Context& context) {
  PrepareInput input{.reader = &reader};
  input.pool = &context.pool();
  input.progress = context.console.progress();
  input.cache_directory = scan_directory;
  input.backend = context.calibration_backend();
  input.arithmetic = context.FloatArithmetic();
  if (scan != nullptr) {
    input.map = &scan->map;
    input.stats = &scan->stats;
    input.scan_sha256 = scan->sha256;
  }
  return input;
}

}  // namespace spikefold
