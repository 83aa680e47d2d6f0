// Recipes as JSON: each wish is a row of Fields(), with its key, how it is written and how it is read.
#include <algorithm>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"
#include "quant/recipe.h"

namespace spikefold {
namespace {

bool Always(const Recipe&) { return true; }

struct Field {
  std::string key;
  std::function<Json(const Recipe&)> write;
  std::function<absl::Status(const Json& json, absl::string_view where, Recipe&)> read;
  std::function<bool(const Recipe&)> is_written = Always;  // else it is left out, with its default's meaning
};

Field Flag(const char* key, bool Recipe::*member) {
  return {key, [=](const Recipe& r) { return Json(r.*member); },
          [=](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            SF_ASSIGN_OR_RETURN(r.*member, json.GetBool(key, where));
            return absl::OkStatus();
          }};
}

Field Number(const char* key, double Recipe::*member) {
  return {key, [=](const Recipe& r) { return Json(r.*member); },
          [=](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            SF_ASSIGN_OR_RETURN(r.*member, json.GetDouble(key, where));
            return absl::OkStatus();
          }};
}

// What cannot be said with a type of its own is InvalidArgument when the recipe is used, not here.
template <typename Integer>
Field Count(const char* key, Integer Recipe::*member) {
  return {key, [=](const Recipe& r) { return Json(static_cast<int64_t>(r.*member)); },
          [=](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            SF_ASSIGN_OR_RETURN(const int64_t number, json.GetInt(key, where));
            r.*member = static_cast<Integer>(number);
            if (static_cast<int64_t>(r.*member) == number) return absl::OkStatus();
            using Limits = std::numeric_limits<Integer>;
            return absl::DataLossError(absl::StrCat(where, ": \"", key, "\" is ", number, "; ", Limits::min(),
                                                    " to ", Limits::max(), " is allowed"));
          }};
}

template <typename Value, typename Parse, typename Name>
Field Word(const char* key, Value Recipe::*member, Parse parse, Name name) {
  return {key, [=](const Recipe& r) { return Json(std::string(name(r.*member))); },
          [=](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            SF_ASSIGN_OR_RETURN(const std::string word, json.GetString(key, where));
            SF_ASSIGN_OR_RETURN(r.*member, parse(word));
            return absl::OkStatus();
          }};
}

Field Scales(const char* key, ScaleMethod Recipe::*member, bool Recipe::*is_set) {
  Field field = Word(key, member, ParseScaleMethod, ScaleMethodName);
  field.is_written = [=](const Recipe& r) { return r.*is_set; };
  field.read = [=, read = field.read](const Json& json, absl::string_view where, Recipe& r) {
    r.*is_set = true;
    return read(json, where, r);
  };
  return field;
}

// Always written, as the value in force.
Field HeadBits() {
  Field field = Count("head_bits", &Recipe::head_bits);
  field.read = [read = field.read](const Json& json, absl::string_view where, Recipe& r) {
    r.head_bits_set = true;
    return read(json, where, r);
  };
  return field;
}

bool HasKv(const Recipe& r) { return r.kv != KvChoice(); }

Field KvForm() {
  return {"kv", [](const Recipe& r) { return Json(KvWord(r.kv)); },
          [](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            SF_ASSIGN_OR_RETURN(const std::string word, json.GetString("kv", where));
            return ParseKvWord(word, r.kv);
          },
          HasKv};
}
Field KvCount(const char* key, int64_t KvChoice::*member) {
  return {key, [=](const Recipe& r) { return Json(r.kv.*member); },
          [=](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            SF_ASSIGN_OR_RETURN(r.kv.*member, json.GetInt(key, where));
            return absl::OkStatus();
          },
          HasKv};
}

Field Rescale() {
  return {"rescale", [](const Recipe& r) { return Json(RescaleWord(r)); },
          [](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            SF_ASSIGN_OR_RETURN(const std::string word, json.GetString("rescale", where));
            return ParseRescale(word, r);
          }};
}

Field Patterns(const char* key, std::vector<std::string> Recipe::*member) {
  return {key,
          [=](const Recipe& r) {
            Json array = Json::MakeArray();
            for (const std::string& pattern : r.*member) array.Append(pattern);
            return array;
          },
          [=](const Json& json, absl::string_view where, Recipe& r) -> absl::Status {
            const Json& value = *json.Find(key);
            bool fits = value.is_array();
            for (size_t i = 0; fits && i < value.array().size(); ++i) {
              fits = value.array()[i].is_string();
              if (fits) (r.*member).push_back(value.array()[i].string_value());
            }
            if (fits) return absl::OkStatus();
            return absl::DataLossError(absl::StrCat(where, ": \"", key, "\" must be an array of strings"));
          }};
}

Field If(bool (*is_written)(const Recipe&), Field field) {
  field.is_written = is_written;
  return field;
}

const std::vector<Field>& Fields() {
  using R = Recipe;
  const auto elsewhere = [](const R& r) { return r.target != Target::kNative; };
  const auto learned = [](const R& r) { return !r.rotations_sha256.empty(); };
  const auto own_scales = [](const R& r) { return r.group_scales != GroupScales::kAuto; };
  const auto searched = [](const R& r) { return r.smooth_search; };
  const auto paired = [](const R& r) { return r.qk_smooth != 0; };
  const auto rescaled = [](const R& r) { return r.rescale_auto || r.rescale != 1; };
  const auto dynamic = [](const R& r) { return r.dynamic_sites != 0; };
  static const auto* const fields = new std::vector<Field>{
      Word(
          "scheme", &R::scheme, [](const std::string& w) { return absl::StatusOr<std::string>(w); },
          [](const std::string& w) { return w; }),
      Word("rotate", &R::rotate, ParseRotations, RotationWords),
      If(learned, Word(
                      "rotations_sha256", &R::rotations_sha256,
                      [](const std::string& w) { return absl::StatusOr<std::string>(w); },
                      [](const std::string& w) { return w; })),
      Number("smooth", &R::smooth),
      If(searched, Flag("smooth_search", &R::smooth_search)),
      Word("shift", &R::shift, ParseShift, ShiftName),
      If(paired, Number("qk_smooth", &R::qk_smooth)),
      If(rescaled, Rescale()),
      Word("rounding", &R::rounding, ParseRounding, RoundingName),
      Word("outliers", &R::outliers, ParseOutlierMode, OutlierModeName),
      If(elsewhere, Word("target", &R::target, ParseTarget, TargetName)),
      Count("group_size", &R::group_size),
      Number("bits", &R::bits),
      Count("max_bytes", &R::max_bytes),
      Number("max_kld", &R::max_kld),
      Flag("random_bits", &R::random_bits),
      Word("codes", &R::codes, ParseCodes, CodesName),
      Word("zero_points", &R::zero_points, ParseZeroPoints, ZeroPointsName),
      If(own_scales, Word("group_scales", &R::group_scales, ParseGroupScales, GroupScalesName)),
      Count("keep_columns", &R::keep_columns),
      Flag("random_columns", &R::random_columns),
      Count("keep_modules", &R::keep_modules),
      Flag("keep_rows", &R::keep_rows),
      Flag("keep_super_weights", &R::keep_super_weights),
      If(dynamic, Count("dynamic_sites", &R::dynamic_sites)),
      If(dynamic, Word("dynamic_by", &R::dynamic_by, ParseDynamicBy, DynamicByName)),
      HeadBits(),
      Count("seed", &R::seed),
      KvForm(),
      KvCount("kv_sinks", &KvChoice::sinks),
      KvCount("kv_recent", &KvChoice::recent),
      KvCount("kv_window", &KvChoice::window),
      Scales("activation_scales", &R::activation_scales, &R::activation_scales_set),
      Scales("weight_scales", &R::weight_scales, &R::weight_scales_set),
      Patterns("keep", &R::keep),
  };
  return *fields;
}

}  // namespace

Json RecipeToJson(const Recipe& recipe) {
  Json json = Json::MakeObject();
  for (const Field& field : Fields()) {
    if (field.is_written(recipe)) json.Set(field.key, field.write(recipe));
  }
  return json;
}

absl::StatusOr<Recipe> RecipeFromJson(const Json& json, absl::string_view where) {
  if (!json.is_object()) return absl::DataLossError(absl::StrCat(where, ": a recipe must be a JSON object"));
  std::vector<std::string> keys;
  for (const Field& field : Fields()) keys.push_back(field.key);
  for (const auto& [key, value] : json.object()) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    return absl::DataLossError(
        absl::StrCat(where, ": \"", Printable(key), "\" is not a recipe key", DidYouMean(key, keys)));
  }
  SF_RETURN_IF_ERROR(json.GetString("scheme", where).status());
  Recipe recipe;
  for (const Field& field : Fields()) {
    if (json.Find(field.key) != nullptr) SF_RETURN_IF_ERROR(field.read(json, where, recipe));
  }
  return recipe;
}

}  // namespace spikefold
