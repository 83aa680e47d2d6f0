// Rotations in the sidecar: {"name": "R4", "at": "down_in", "kind": "hadamard", "factors": [12, 128],
// "width": 1536, "online": true}, "layers" where not all rotate.
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 24;

absl::StatusOr<std::vector<int64_t>> Integers(const Json& j, const char* key, absl::string_view where) {
  const Json* list = j.Find(key);
  std::vector<int64_t> values;
  bool good = list != nullptr && list->is_array();
  for (size_t i = 0; good && i < list->array().size(); ++i) {
    good = list->array()[i].is_int();
    if (good) values.push_back(list->array()[i].int_value());
  }
  if (!good) return absl::DataLossError(absl::StrCat(where, ": \"", key, "\" is not a list of integers"));
  return values;
}

absl::StatusOr<Rotation> RotationFromJson(const Json& j, absl::string_view where) {
  SF_RETURN_IF_ERROR(CheckKeys(j, {"name", "at", "kind", "factors", "width", "online", "layers"}, where));
  Rotation r;
  SF_ASSIGN_OR_RETURN(r.name, j.GetString("name", where));
  SF_ASSIGN_OR_RETURN(const std::string at, j.GetString("at", where));
  SF_ASSIGN_OR_RETURN(const std::string kind, j.GetString("kind", where));
  SF_ASSIGN_OR_RETURN(const int64_t width, j.GetInt("width", where));
  SF_ASSIGN_OR_RETURN(const bool online, j.GetBool("online", where));
  SF_ASSIGN_OR_RETURN(r.place, ParseRotationPlace(at));
  SF_ASSIGN_OR_RETURN(r.factors, Integers(j, "factors", where));
  if (kind != "hadamard") {
    return absl::UnimplementedError(
        absl::StrCat(where, ": kind \"", Printable(kind), "\" is not supported; known: hadamard"));
  }
  if (online != IsOnline(r.place)) {
    return absl::DataLossError(
        absl::StrCat(where, ": a rotation at ", at, online ? " is not" : " is", " online"));
  }
  if (width < 1 || width > kMaxWidth) {
    return absl::DataLossError(absl::StrCat(where, ": width ", width, "; 1 to ", kMaxWidth, " are allowed"));
  }
  r.signs.assign(static_cast<size_t>(width), 1);  // until the tensor is read
  if (j.Find("layers") == nullptr) return r;
  SF_ASSIGN_OR_RETURN(const std::vector<int64_t> layers, Integers(j, "layers", where));
  for (const int64_t layer : layers) {
    if (layer < 0 || layer > 100000) return absl::DataLossError(absl::StrCat(where, ": layer ", layer));
    r.layers.push_back(static_cast<int>(layer));
  }
  if (layers.empty())
    return absl::DataLossError(absl::StrCat(where, ": \"layers\" is empty; leave it out for all"));
  return r;
}

}  // namespace

Json RotationsToJson(const std::vector<Rotation>& rotations) {
  Json list = Json::MakeArray();
  for (const Rotation& r : rotations) {
    Json j = Json::MakeObject(), factors = Json::MakeArray(), layers = Json::MakeArray();
    for (const int64_t f : r.factors) factors.Append(f);
    for (const int layer : r.layers) layers.Append(layer);
    j.Set("name", r.name).Set("at", RotationPlaceName(r.place)).Set("kind", "hadamard");
    j.Set("factors", std::move(factors)).Set("width", r.width()).Set("online", IsOnline(r.place));
    if (!r.layers.empty()) j.Set("layers", std::move(layers));
    list.Append(std::move(j));
  }
  return list;
}

absl::StatusOr<std::vector<Rotation>> RotationsFromJson(const Json& json, absl::string_view sidecar) {
  const std::string where = absl::StrCat(sidecar, ": rotations");
  std::vector<Rotation> rotations;
  if (!json.is_array()) return absl::DataLossError(absl::StrCat(where, ": is not a list"));
  for (const Json& j : json.array()) {
    SF_ASSIGN_OR_RETURN(Rotation r, RotationFromJson(j, where));
    rotations.push_back(std::move(r));
  }
  if (const absl::Status status = CheckRotations(rotations); !status.ok()) {
    return absl::DataLossError(absl::StrCat(sidecar, ": ", status.message()));
  }
  return rotations;
}

SafetensorsWriter::Spec RotationTensorSpec(const Rotation& r) {
  return {absl::StrCat("spikefold.rotation.", r.name, ".sign"), DType::kI8, {r.width()}};
}

absl::Status CheckRotations(const std::vector<Rotation>& rotations) {
  for (size_t i = 0; i < rotations.size(); ++i) {
    SF_RETURN_IF_ERROR(CheckRotation(rotations[i]));
    for (size_t j = 0; j < i; ++j) {
      if (rotations[i].name != rotations[j].name) continue;
      return absl::InvalidArgumentError(absl::StrCat("rotation \"", rotations[i].name, "\" is there twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold
