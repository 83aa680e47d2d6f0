// What is in a part of a checkpoint.
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {

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
  return Json::MakeObject()
      .Set("index", part.index)
      .Set("count", part.count)
      .Set("common", part.common)
      .Set("modules", std::move(modules));
}

absl::StatusOr<NativePart> PartFromJson(const Json& sidecar, absl::string_view where) {
  const Json* j = sidecar.Find(kPartKey);
  if (j == nullptr) return absl::DataLossError(absl::StrCat(where, ": has no \"", kPartKey, "\""));
  SF_RETURN_IF_ERROR(CheckKeys(*j, {"index", "count", "common", "modules"}, where));
  NativePart part;
  SF_ASSIGN_OR_RETURN(part.index, j->GetInt("index", where));
  SF_ASSIGN_OR_RETURN(part.count, j->GetInt("count", where));
  SF_ASSIGN_OR_RETURN(part.common, j->GetBool("common", where));
  const Json* modules = j->Find("modules");
  if (part.index < 1 || part.index > part.count || modules == nullptr || !modules->is_array()) {
    return absl::DataLossError(absl::StrCat(where, ": \"", kPartKey, "\" says part ", part.index, " of ",
                                            part.count, ", or lists no modules"));
  }
  for (const Json& module : modules->array()) {
    if (!module.is_string()) return absl::DataLossError(absl::StrCat(where, ": a module is no string"));
    part.modules.push_back(module.string_value());
  }
  return part;
}

}  // namespace spikefold
