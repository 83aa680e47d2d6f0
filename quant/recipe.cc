#include "quant/recipe.h"

#include <array>
#include <utility>

#include "absl/strings/numbers.h"
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
constexpr Words<GroupScales, 3> kGroupScales = {
    {{"auto", GroupScales::kAuto}, {"float", GroupScales::kFloat}, {"multiples", GroupScales::kMultiples}}};
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
absl::StatusOr<GroupScales> ParseGroupScales(absl::string_view name) {
  return Parse(kGroupScales, "group scales", name);
}
const char* GroupScalesName(GroupScales scales) { return NameOf(kGroupScales, scales); }
absl::StatusOr<Target> ParseTarget(absl::string_view name) { return Parse(kTargets, "target", name); }
const char* TargetName(Target target) { return NameOf(kTargets, target); }
const char* CodesName(Codes codes) { return NameOf(kCodes, codes); }
absl::StatusOr<DynamicBy> ParseDynamicBy(absl::string_view name) {
  return Parse(kDynamicBy, "choice of dynamic sites", name);
}
const char* DynamicByName(DynamicBy by) { return NameOf(kDynamicBy, by); }
const char* OutlierModeName(OutlierMode mode) { return NameOf(kOutlierModes, mode); }

absl::Status ParseRescale(absl::string_view word, Recipe& recipe) {
  recipe.rescale_auto = word == "auto";
  recipe.rescale = 1;
  int64_t lambda = 1;
  const bool number = recipe.rescale_auto || absl::SimpleAtoi(word, &lambda);
  if (!number || lambda < 1 || lambda > 65536 || (lambda & (lambda - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rescale \"", Printable(word), "\": give \"auto\" or a power of two from 1 (none) to 65536"));
  }
  recipe.rescale = static_cast<double>(lambda);
  return absl::OkStatus();
}
std::string RescaleWord(const Recipe& recipe) {
  return recipe.rescale_auto ? "auto" : absl::StrCat(recipe.rescale);
}

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

}  // namespace spikefold
