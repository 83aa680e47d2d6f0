// What is in a part of a checkpoint.
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

absl::StatusOr<std::vector<std::string>> StringsOf(const Json& object, const char* key,
                                                   absl::string_view where) {
  const Json* list = object.Find(key);
  if (list == nullptr || !list->is_array()) {
    return absl::DataLossError(absl::StrCat(where, ": \"", kPartKey, "\" has no list \"", key, "\""));
  }
  std::vector<std::string> strings;
  for (const Json& value : list->array()) {
    if (!value.is_string()) {
      return absl::DataLossError(absl::StrCat(where, ": \"", key, "\" holds what is no string"));
    }
    strings.push_back(value.string_value());
  }
  return strings;
}

}  // namespace

std::vector<SafetensorsWriter::Spec> PartTensorSpecs(const NativeInfo& info,
                                                     const std::vector<SafetensorsWriter::Spec>& plain,
                                                     const NativePart& part) {
  const bool whole = part.count == 0;
  const absl::flat_hash_set<absl::string_view> modules(part.modules.begin(), part.modules.end());
  std::vector<SafetensorsWriter::Spec> specs;
  for (const QuantizedLinearSpec& s : info.linears) {
    if (!whole && !modules.contains(s.module)) continue;
    for (SafetensorsWriter::Spec& t : TensorSpecs(s)) specs.push_back(std::move(t));
  }
  if (!whole && !part.common) return specs;
  for (SafetensorsWriter::Spec& t : CommonTensorSpecs(info)) specs.push_back(std::move(t));
  specs.insert(specs.end(), plain.begin(), plain.end());
  return specs;
}

uint64_t NativeFileBytes(const NativeInfo& info, const std::vector<SafetensorsWriter::Spec>& plain,
                         const NativePart& part) {
  return SafetensorsFileBytes(PartTensorSpecs(info, plain, part));
}

Json PartToJson(const NativePart& part) {
  Json modules = Json::MakeArray();
  for (const std::string& module : part.modules) modules.Append(module);
  Json rests_on = Json::MakeArray();
  for (const std::string& hash : part.rests_on) rests_on.Append(hash);
  return Json::MakeObject()
      .Set("index", part.index)
      .Set("count", part.count)
      .Set("common", part.common)
      .Set("made_by", part.made_by)
      .Set("rests_on", std::move(rests_on))
      .Set("modules", std::move(modules));
}

absl::StatusOr<NativePart> PartFromJson(const Json& sidecar, absl::string_view where) {
  const Json* j = sidecar.Find(kPartKey);
  if (j == nullptr) return absl::DataLossError(absl::StrCat(where, ": has no \"", kPartKey, "\""));
  SF_RETURN_IF_ERROR(CheckKeys(*j, {"index", "count", "common", "made_by", "rests_on", "modules"}, where));
  NativePart part;
  SF_ASSIGN_OR_RETURN(part.index, j->GetInt("index", where));
  SF_ASSIGN_OR_RETURN(part.count, j->GetInt("count", where));
  SF_ASSIGN_OR_RETURN(part.common, j->GetBool("common", where));
  SF_ASSIGN_OR_RETURN(part.made_by, j->GetString("made_by", where));
  if (part.index < 1 || part.index > part.count) {
    return absl::DataLossError(
        absl::StrCat(where, ": \"", kPartKey, "\" says part ", part.index, " of ", part.count));
  }
  SF_ASSIGN_OR_RETURN(part.modules, StringsOf(*j, "modules", where));
  SF_ASSIGN_OR_RETURN(part.rests_on, StringsOf(*j, "rests_on", where));
  return part;
}

}  // namespace spikefold
