#include "apps/spikefold/sweep_points.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "quant/scheme.h"
#include "quant/target.h"

namespace spikefold {
namespace {

constexpr uint64_t kMaxRecipesBytes = uint64_t{16} << 20;
constexpr size_t kMaxNameBytes = 100;
constexpr double kBudgets[] = {2.55, 3.05, 3.4, 4.05, 4.31, 4.8, 5.5, 6.5};

bool IsNameByte(char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; }

// "w4a16-codes-grid-bits-4.31": the scheme and what the recipe says otherwise than its defaults.
std::string NameOf(const Recipe& recipe) {
  Recipe plain;
  plain.scheme = recipe.scheme;
  const Json defaults = RecipeToJson(plain);
  const Json json = RecipeToJson(recipe);
  std::string name = recipe.scheme;
  for (const auto& [key, value] : json.object()) {
    const Json* usual = defaults.Find(key);
    if (usual != nullptr && usual->Dump() == value.Dump()) continue;
    absl::StrAppend(&name, "-", key);
    if (!value.is_bool())
      absl::StrAppend(&name, "-", value.is_string() ? value.string_value() : value.Dump());
  }
  for (char& c : name) {
    if (!IsNameByte(c)) c = '-';
  }
  return name.substr(0, kMaxNameBytes - 8);
}

// Files of the sweep itself.
bool IsReserved(const std::string& name) {
  return name == "sweep.json" || absl::StartsWith(name, "report.") || absl::EndsWith(name, ".eval.json");
}

absl::Status CheckName(const std::string& name, absl::string_view where) {
  const bool fits = !name.empty() && name.size() <= kMaxNameBytes && name[0] != '.' && !IsReserved(name) &&
                    std::all_of(name.begin(), name.end(), IsNameByte);
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": the name \"", Printable(name, 120),
                   "\" cannot name a directory here; use up to ", kMaxNameBytes,
                   " letters, digits, '.', '_' and '-', without '.' in front, other than "
                   "sweep.json, report.* and *.eval.json"));
}

absl::StatusOr<SweepPoint> ReadPoint(const Json& json, absl::string_view where) {
  SweepPoint point;
  Json recipe = Json::MakeObject();
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(where, ": a recipe must be a JSON object"));
  for (const auto& [key, value] : json.object()) {
    if (key != "name") recipe.Set(key, value);
  }
  if (json.Find("name") != nullptr) {
    SF_ASSIGN_OR_RETURN(point.name, json.GetString("name", where));
    SF_RETURN_IF_ERROR(CheckName(point.name, where));
  }
  SF_ASSIGN_OR_RETURN(point.recipe, RecipeFromJson(recipe, where));
  absl::StatusOr<Recipe> fitting = RecipeForTarget(std::move(point.recipe));
  if (!fitting.ok()) {
    return absl::Status(fitting.status().code(), absl::StrCat(where, ": ", fitting.status().message()));
  }
  point.recipe = *std::move(fitting);
  return point;
}

// Names those that have none, apart from each other and from those that have one.
void NameTheRest(std::vector<SweepPoint>& points) {
  absl::flat_hash_set<std::string> taken;
  for (const SweepPoint& point : points) taken.insert(point.name);
  for (SweepPoint& point : points) {
    if (!point.name.empty()) continue;
    const std::string base = NameOf(point.recipe);
    point.name = base;
    for (int i = 2; !taken.insert(point.name).second; ++i) point.name = absl::StrCat(base, "-", i);
  }
}

Recipe Of(const char* scheme, uint64_t seed) {
  Recipe recipe;
  recipe.scheme = scheme;
  recipe.seed = seed;
  return recipe;
}

void AddControls(uint64_t seed, std::vector<SweepPoint>& points) {
  Recipe untreated = Of("w8a8-static", seed);
  untreated.outliers = OutlierMode::kNone;
  points.push_back({"w8a8-static-none", untreated});
  Recipe kept = Of("w8a8-static", seed);
  kept.outliers = OutlierMode::kFoldKeep;
  kept.keep_columns = 64;
  points.push_back({"w8a8-static-fold-keep64", kept});
  kept.random_columns = true;
  points.push_back({"w8a8-static-fold-random64", kept});
  Recipe grid = Of("w4a16", seed);
  grid.codes = Codes::kGrid;
  points.push_back({"w4a16-grid", grid});
  Recipe nearest = Of("w4a16", seed);
  nearest.rounding = Rounding::kNearest;
  points.push_back({"w4a16-nearest", nearest});
}

// Caches of codes, behind weights of a point without.
void AddCaches(uint64_t seed, std::vector<SweepPoint>& points) {
  constexpr std::pair<const char*, int> kCaches[] = {{"w8a8-static", 8}, {"w4a16", 8}, {"w4a16", 4},
                                                     {"w4a16", 3},       {"w4a16", 2}, {"w4a4", 4}};
  for (const auto& [scheme, bits] : kCaches) {
    Recipe recipe = Of(scheme, seed);
    recipe.kv.k_bits = recipe.kv.v_bits = bits;
    points.push_back({absl::StrCat(scheme, "-kv", bits), recipe});
  }
}

// A recipe without what only activations and caches feel, or what depends on them, and its scheme's weights
// instead of its name; these and budgets only `with_bits`.
Json WeightSide(const Recipe& recipe, bool with_bits) {
  const Json json = RecipeToJson(recipe);
  Json out = Json::MakeObject();
  for (const auto& [key, value] : json.object()) {
    const bool activations = key == "scheme" || key == "activation_scales" || absl::StartsWith(key, "kv") ||
                             absl::StartsWith(key, "dynamic_") ||
                             key == "group_scales";  // left open it follows the activations
    const bool bits = key == "bits" || key == "max_bytes" || key == "max_kld";
    if (!activations && (with_bits || !bits)) out.Set(key, value);
  }
  const auto scheme = FindScheme(recipe.scheme);
  if (!scheme.ok()) return out.Set("scheme", recipe.scheme);
  if (!with_bits) return out;
  return out.Set("bits_of_scheme", (*scheme)->weight_bits)
      .Set("scales_of_scheme", static_cast<int>((*scheme)->weight_scales))
      .Set("symmetric", (*scheme)->weights_symmetric);
}

}  // namespace

std::vector<SweepPoint> SweepGrid(uint64_t seed) {
  std::vector<SweepPoint> points;
  for (const char* scheme : {"w8a16", "w8a8", "w8a8-static", "w4a16", "w4a8", "w4a8-static", "w3a16", "w2a16",
                             "w4a4", "w4a4-group", "w4a4-static"}) {
    points.push_back({scheme, Of(scheme, seed)});
  }
  AddControls(seed, points);
  AddCaches(seed, points);
  for (const double bits : kBudgets) {
    Recipe recipe = Of("w4a16", seed);
    recipe.bits = bits;
    points.push_back({absl::StrCat("w4a16-bits-", bits), recipe});
  }
  return points;
}

absl::StatusOr<std::vector<SweepPoint>> ReadSweepPoints(const std::string& path) {
  const std::string shown = Printable(path, 1024);
  SF_ASSIGN_OR_RETURN(const std::string text, ReadFileToString(path, kMaxRecipesBytes));
  SF_ASSIGN_OR_RETURN(const Json json, ParseJson(text, path));
  if (!json.is_array()) {
    return absl::DataLossError(absl::StrCat(shown, ": must be a JSON array of recipes"));
  }
  if (json.array().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(shown, ": holds no recipe; give one or more"));
  }
  std::vector<SweepPoint> points;
  absl::flat_hash_set<std::string> names;
  for (size_t i = 0; i < json.array().size(); ++i) {
    const std::string where = absl::StrCat(shown, "[", i, "]");
    SF_ASSIGN_OR_RETURN(SweepPoint point, ReadPoint(json.array()[i], where));
    if (!point.name.empty() && !names.insert(point.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": the name \"", point.name,
                                                     "\" stands there twice; each recipe needs its own"));
    }
    points.push_back(std::move(point));
  }
  NameTheRest(points);
  return points;
}

bool MayShareCodes(const Recipe& a, const Recipe& b) {
  const bool with_bits = a.has_budget() == b.has_budget();
  return WeightSide(a, with_bits).Dump() == WeightSide(b, with_bits).Dump();
}

}  // namespace spikefold
