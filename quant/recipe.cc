#include "quant/recipe.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"

namespace spikefold {
namespace {

template <typename Enum, size_t N>
using Words = std::array<std::pair<const char*, Enum>, N>;
constexpr Words<ScaleMethod, 3> kScaleMethods = {
    {{"absmax", ScaleMethod::kAbsMax}, {"percentile", ScaleMethod::kPercentile}, {"mse", ScaleMethod::kMse}}};
constexpr Words<Rounding, 3> kRoundings = {
    {{"auto", Rounding::kAuto}, {"nearest", Rounding::kNearest}, {"gptq", Rounding::kGptq}}};
constexpr Words<ZeroPoints, 5> kZeroPoints = {{{"auto", ZeroPoints::kAuto},
                                               {"none", ZeroPoints::kNone},
                                               {"weights", ZeroPoints::kWeights},
                                               {"activations", ZeroPoints::kActivations},
                                               {"both", ZeroPoints::kBoth}}};
constexpr Words<Codes, 3> kCodes = {
    {{"auto", Codes::kAuto}, {"grid", Codes::kGrid}, {"trellis", Codes::kTrellis}}};
constexpr Words<Target, 4> kTargets = {{{"native", Target::kNative},
                                        {"vllm", Target::kVllm},
                                        {"llamacpp", Target::kLlamaCpp},
                                        {"all", Target::kAll}}};
constexpr Words<Shift, 3> kShifts = {
    {{"auto", Shift::kAuto}, {"none", Shift::kNone}, {"mean", Shift::kMean}}};
constexpr Words<DynamicBy, 3> kDynamicBy = {
    {{"damage", DynamicBy::kDamage}, {"score", DynamicBy::kScore}, {"random", DynamicBy::kRandom}}};
constexpr Words<OutlierMode, 5> kOutlierModes = {{{"auto", OutlierMode::kAuto},
                                                  {"none", OutlierMode::kNone},
                                                  {"keep", OutlierMode::kKeep},
                                                  {"fold", OutlierMode::kFold},
                                                  {"fold+keep", OutlierMode::kFoldKeep}}};

template <typename Enum, size_t N>
absl::StatusOr<Enum> Parse(const Words<Enum, N>& words, absl::string_view what, absl::string_view name) {
  std::vector<std::string> names;
  for (const auto& [word, value] : words) {
    if (name == word) return value;
    names.emplace_back(word);
  }
  return absl::InvalidArgumentError(absl::StrCat(what, " \"", name, "\" is unknown", DidYouMean(name, names),
                                                 "; use ", absl::StrJoin(names, ", ")));
}
template <typename Enum, size_t N>
const char* NameOf(const Words<Enum, N>& words, Enum value) {
  for (const auto& [word, candidate] : words) {
    if (candidate == value) return word;
  }
  return "?";
}

}  // namespace

absl::StatusOr<ScaleMethod> ParseScaleMethod(absl::string_view name) {
  return Parse(kScaleMethods, "scale method", name);
}
const char* ScaleMethodName(ScaleMethod method) { return NameOf(kScaleMethods, method); }
absl::StatusOr<Rounding> ParseRounding(absl::string_view name) { return Parse(kRoundings, "rounding", name); }
const char* RoundingName(Rounding rounding) { return NameOf(kRoundings, rounding); }
absl::StatusOr<OutlierMode> ParseOutlierMode(absl::string_view name) {
  return Parse(kOutlierModes, "outlier mode", name);
}
absl::StatusOr<ZeroPoints> ParseZeroPoints(absl::string_view name) {
  return Parse(kZeroPoints, "zero points", name);
}
const char* ZeroPointsName(ZeroPoints zero_points) { return NameOf(kZeroPoints, zero_points); }
absl::StatusOr<Shift> ParseShift(absl::string_view name) { return Parse(kShifts, "shift", name); }
const char* ShiftName(Shift shift) { return NameOf(kShifts, shift); }
absl::StatusOr<Codes> ParseCodes(absl::string_view name) { return Parse(kCodes, "codes", name); }
absl::StatusOr<Target> ParseTarget(absl::string_view name) { return Parse(kTargets, "target", name); }
const char* TargetName(Target target) { return NameOf(kTargets, target); }
const char* CodesName(Codes codes) { return NameOf(kCodes, codes); }
absl::StatusOr<DynamicBy> ParseDynamicBy(absl::string_view name) {
  return Parse(kDynamicBy, "choice of dynamic sites", name);
}
const char* DynamicByName(DynamicBy by) { return NameOf(kDynamicBy, by); }
const char* OutlierModeName(OutlierMode mode) { return NameOf(kOutlierModes, mode); }

ScaleMethod ActivationScales(const Recipe& recipe) {
  if (recipe.activation_scales_set) return recipe.activation_scales;
  return recipe.outliers == OutlierMode::kNone ? ScaleMethod::kAbsMax : ScaleMethod::kMse;
}

absl::StatusOr<RotationChoice> ParseRotations(absl::string_view words) {
  RotationChoice choice;
  if (words == "auto") return choice;
  choice.automatic = false;
  if (words == "none") return choice;
  if (words == "offline") words = "R1+R2";
  if (words == "online") words = "R1+R2+R4";
  for (const absl::string_view word : absl::StrSplit(words, '+')) {
    bool* const known[] = {&choice.r1, &choice.r2, &choice.r3, &choice.r4};
    const bool named = word.size() == 2 && word[0] == 'R' && word[1] >= '1' && word[1] <= '4';
    if (!named || *known[word[1] - '1']) {
      return absl::InvalidArgumentError(
          absl::StrCat("rotate \"", Printable(words),
                       "\" is unknown; use auto, none, offline, online, or R1 to R4 joined by '+'"));
    }
    *known[word[1] - '1'] = true;
  }
  return choice;
}

std::string RotationWords(const RotationChoice& choice) {
  if (choice.automatic) return "auto";
  std::vector<std::string> names;
  if (choice.r1) names.emplace_back("R1");
  if (choice.r2) names.emplace_back("R2");
  if (choice.r3) names.emplace_back("R3");
  if (choice.r4) names.emplace_back("R4");
  return names.empty() ? "none" : absl::StrJoin(names, "+");
}

Json RecipeToJson(const Recipe& recipe) {
  Json json = Json::MakeObject();
  json.Set("scheme", recipe.scheme)
      .Set("rotate", RotationWords(recipe.rotate))
      .Set("smooth", recipe.smooth)
      .Set("shift", ShiftName(recipe.shift))
      .Set("rounding", RoundingName(recipe.rounding))
      .Set("outliers", OutlierModeName(recipe.outliers))
      .Set("group_size", recipe.group_size)
      .Set("bits", recipe.bits)
      .Set("max_bytes", recipe.max_bytes)
      .Set("max_kld", recipe.max_kld)
      .Set("random_bits", recipe.random_bits)
      .Set("codes", CodesName(recipe.codes))
      .Set("zero_points", ZeroPointsName(recipe.zero_points))
      .Set("keep_columns", recipe.keep_columns)
      .Set("random_columns", recipe.random_columns)
      .Set("keep_modules", recipe.keep_modules)
      .Set("keep_rows", recipe.keep_rows)
      .Set("keep_super_weights", recipe.keep_super_weights)
      .Set("head_bits", recipe.head_bits)
      .Set("seed", static_cast<int64_t>(recipe.seed));
  if (recipe.smooth_search) json.Set("smooth_search", true);
  if (recipe.dynamic_sites != 0) {
    json.Set("dynamic_sites", recipe.dynamic_sites).Set("dynamic_by", DynamicByName(recipe.dynamic_by));
  }
  if (recipe.kv != KvChoice()) {
    json.Set("kv", KvWord(recipe.kv))
        .Set("kv_sinks", recipe.kv.sinks)
        .Set("kv_recent", recipe.kv.recent)
        .Set("kv_window", recipe.kv.window);
  }
  if (recipe.target != Target::kNative) json.Set("target", TargetName(recipe.target));
  if (recipe.activation_scales_set) json.Set("activation_scales", ScaleMethodName(recipe.activation_scales));
  if (recipe.weight_scales_set) json.Set("weight_scales", ScaleMethodName(recipe.weight_scales));
  Json keep = Json::MakeArray();
  for (const std::string& pattern : recipe.keep) keep.Append(pattern);
  json.Set("keep", std::move(keep));
  return json;
}

absl::StatusOr<Recipe> RecipeFromJson(const Json& json, absl::string_view where) {
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(where, ": a recipe must be a JSON object"));
  static const std::vector<std::string> kKeys = {"target",
                                                 "scheme",
                                                 "outliers",
                                                 "group_size",
                                                 "keep_columns",
                                                 "random_columns",
                                                 "keep_modules",
                                                 "keep_rows",
                                                 "keep_super_weights",
                                                 "keep",
                                                 "activation_scales",
                                                 "head_bits",
                                                 "weight_scales",
                                                 "seed",
                                                 "rotate",
                                                 "smooth",
                                                 "shift",
                                                 "rounding",
                                                 "kv",
                                                 "kv_sinks",
                                                 "kv_recent",
                                                 "kv_window",
                                                 "codes",
                                                 "zero_points",
                                                 "max_bytes",
                                                 "max_kld",
                                                 "bits",
                                                 "dynamic_sites",
                                                 "dynamic_by",
                                                 "smooth_search",
                                                 "random_bits"};
  Recipe recipe;
  SF_ASSIGN_OR_RETURN(recipe.scheme, json.GetString("scheme", where));
  for (const auto& [key, value] : json.object()) {
    const auto get_int = [&](int* out) -> absl::Status {
      SF_ASSIGN_OR_RETURN(const int64_t number, json.GetInt(key, where));
      *out = static_cast<int>(number);
      return absl::OkStatus();
    };
    const auto get_bool = [&](bool* out) -> absl::Status {
      SF_ASSIGN_OR_RETURN(*out, json.GetBool(key, where));
      return absl::OkStatus();
    };
    if (key == "scheme") continue;
    if (key == "outliers") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.outliers, ParseOutlierMode(word));
    } else if (key == "rotate") {
      SF_ASSIGN_OR_RETURN(const std::string words, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.rotate, ParseRotations(words));
    } else if (key == "target") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.target, ParseTarget(word));
    } else if (key == "rounding") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.rounding, ParseRounding(word));
    } else if (key == "shift") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.shift, ParseShift(word));
    } else if (key == "codes") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.codes, ParseCodes(word));
    } else if (key == "zero_points") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.zero_points, ParseZeroPoints(word));
    } else if (key == "smooth") {
      SF_ASSIGN_OR_RETURN(recipe.smooth, json.GetDouble(key, where));
    } else if (key == "bits") {
      SF_ASSIGN_OR_RETURN(recipe.bits, json.GetDouble(key, where));
    } else if (key == "max_bytes") {
      SF_ASSIGN_OR_RETURN(recipe.max_bytes, json.GetInt("max_bytes", where));
    } else if (key == "max_kld") {
      SF_ASSIGN_OR_RETURN(recipe.max_kld, json.GetDouble("max_kld", where));
    } else if (key == "group_size") {
      SF_RETURN_IF_ERROR(get_int(&recipe.group_size));
    } else if (key == "keep_columns") {
      SF_RETURN_IF_ERROR(get_int(&recipe.keep_columns));
    } else if (key == "keep_modules") {
      SF_RETURN_IF_ERROR(get_int(&recipe.keep_modules));
    } else if (key == "dynamic_sites") {
      SF_RETURN_IF_ERROR(get_int(&recipe.dynamic_sites));
    } else if (key == "dynamic_by") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(recipe.dynamic_by, ParseDynamicBy(word));
    } else if (key == "head_bits") {
      SF_RETURN_IF_ERROR(get_int(&recipe.head_bits));
    } else if (key == "random_columns") {
      SF_RETURN_IF_ERROR(get_bool(&recipe.random_columns));
    } else if (key == "random_bits") {
      SF_RETURN_IF_ERROR(get_bool(&recipe.random_bits));
    } else if (key == "smooth_search") {
      SF_RETURN_IF_ERROR(get_bool(&recipe.smooth_search));
    } else if (key == "keep_rows") {
      SF_RETURN_IF_ERROR(get_bool(&recipe.keep_rows));
    } else if (key == "keep_super_weights") {
      SF_RETURN_IF_ERROR(get_bool(&recipe.keep_super_weights));
    } else if (key == "kv") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_RETURN_IF_ERROR(ParseKvWord(word, recipe.kv));
    } else if (key == "kv_sinks") {
      SF_ASSIGN_OR_RETURN(recipe.kv.sinks, json.GetInt(key, where));
    } else if (key == "kv_recent") {
      SF_ASSIGN_OR_RETURN(recipe.kv.recent, json.GetInt(key, where));
    } else if (key == "kv_window") {
      SF_ASSIGN_OR_RETURN(recipe.kv.window, json.GetInt(key, where));
    } else if (key == "seed") {
      SF_ASSIGN_OR_RETURN(const int64_t seed, json.GetInt(key, where));
      recipe.seed = static_cast<uint64_t>(seed);
    } else if (key == "activation_scales" || key == "weight_scales") {
      SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
      SF_ASSIGN_OR_RETURN(const ScaleMethod method, ParseScaleMethod(word));
      (key == "activation_scales" ? recipe.activation_scales : recipe.weight_scales) = method;
      (key == "activation_scales" ? recipe.activation_scales_set : recipe.weight_scales_set) = true;
    } else if (key == "keep") {
      if (!value.is_array())
        return absl::DataLossError(absl::StrCat(where, ": \"keep\" must be an array of strings"));
      for (const Json& pattern : value.array()) {
        if (!pattern.is_string())
          return absl::DataLossError(absl::StrCat(where, ": \"keep\" must be an array of strings"));
        recipe.keep.push_back(pattern.string_value());
      }
    } else {
      return absl::DataLossError(
          absl::StrCat(where, ": \"", Printable(key), "\" is not a recipe key", DidYouMean(key, kKeys)));
    }
  }
  return recipe;
}

}  // namespace spikefold
