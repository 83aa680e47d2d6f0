// learned_rotations.h, the file: nothing here computes, so that a fuzzer builds it alone.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "formats/safetensors.h"
#include "quant/folds/learned_rotations.h"

namespace spikefold {
namespace {

constexpr char kKind[] = "spikefold-rotations";
constexpr int64_t kFormatVersion = 1;
constexpr int64_t kMaxOrder = 1 << 15, kMaxLayers = 1024;

std::string Digest(const LearnedRotations& r) {
  Sha256 digest;
  for (const NamedRotation& n : ListRotations(r)) {
    const std::vector<double>& m = *n.matrix;
    digest.Update({n.name.data(), n.name.size()});
    digest.Update({reinterpret_cast<const char*>(m.data()), m.size() * sizeof(double)});
  }
  return digest.Hex();
}

absl::Status Corrupt(const std::string& path, absl::string_view what) {
  return absl::DataLossError(absl::StrCat(path, ": ", what, "; learn the rotations again"));
}

absl::StatusOr<Json> ReadDescription(const SafetensorsFile& file, const std::string& path) {
  std::string kind, text;
  for (const auto& [key, value] : file.metadata()) {
    if (key == "kind") kind = value;
    if (key == "spikefold") text = value;
  }
  if (kind != kKind) {
    return absl::DataLossError(absl::StrCat(path, ": holds no rotations; give what learn-rotations wrote"));
  }
  SF_ASSIGN_OR_RETURN(Json json, ParseJson(text, path));
  SF_ASSIGN_OR_RETURN(const int64_t version, json.GetInt("format_version", path));
  if (version == kFormatVersion) return json;
  return absl::UnimplementedError(absl::StrCat(path, ": format version ", version, "; this Spikefold reads ",
                                               kFormatVersion, "; learn the rotations again"));
}

absl::StatusOr<DenseMatrix> ReadMatrix(const SafetensorsFile& file, const std::string& name, int64_t order,
                                       const std::string& path) {
  const SafetensorsEntry* entry = file.Find(name);
  if (entry == nullptr || entry->dtype != DType::kF64 || entry->shape != Shape{order, order}) {
    return Corrupt(path, absl::StrCat(name, " is no F64 [", order, ", ", order, "]"));
  }
  SF_ASSIGN_OR_RETURN(const Tensor tensor, file.Read(*entry));
  return std::make_shared<const std::vector<double>>(tensor.as<double>().begin(), tensor.as<double>().end());
}

}  // namespace

std::vector<NamedRotation> ListRotations(const LearnedRotations& r) {
  std::vector<NamedRotation> list;
  if (r.residual != nullptr) list.push_back({"R1", r.residual, r.hidden});
  for (size_t l = 0; l < r.values.size(); ++l) {
    list.push_back({RotationTensorName(static_cast<int64_t>(l)), r.values[l], r.head_dim});
  }
  return list;
}

std::string RotationTensorName(int64_t layer) { return absl::StrCat("layers.", layer, ".R2"); }

void SealRotations(LearnedRotations& rotations) { rotations.sha256 = Digest(rotations); }

absl::Status SaveRotations(const LearnedRotations& r, const std::string& path) {
  const Json description = Json::MakeObject()
                               .Set("format_version", kFormatVersion)
                               .Set("tool_version", ToolVersionAndCommit())
                               .Set("model_fingerprint", r.model_fingerprint)
                               .Set("hidden", r.hidden)
                               .Set("head_dim", r.head_dim)
                               .Set("residual", r.residual != nullptr)
                               .Set("value_layers", static_cast<int64_t>(r.values.size()))
                               .Set("sha256", Digest(r))
                               .Set("learnt", r.record);
  std::vector<SafetensorsWriter::Spec> specs;
  for (const NamedRotation& n : ListRotations(r)) specs.push_back({n.name, DType::kF64, {n.order, n.order}});
  SF_ASSIGN_OR_RETURN(const auto target, AtomicFile::Create(path));
  SF_ASSIGN_OR_RETURN(const auto writer,
                      SafetensorsWriter::Create(target->partial_path(), std::move(specs),
                                                {{"kind", kKind}, {"spikefold", description.Dump()}}));
  for (const NamedRotation& n : ListRotations(r)) {
    SF_RETURN_IF_ERROR(writer->Write(n.name, {DType::kF64, {n.order, n.order}, n.matrix->data()}));
  }
  SF_RETURN_IF_ERROR(writer->Finish());
  return target->Commit();
}

absl::StatusOr<LearnedRotations> LoadRotations(const std::string& path) {
  SF_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::Open(path));
  SF_ASSIGN_OR_RETURN(const Json json, ReadDescription(*file, path));
  LearnedRotations r;
  SF_ASSIGN_OR_RETURN(r.model_fingerprint, json.GetString("model_fingerprint", path));
  SF_ASSIGN_OR_RETURN(r.hidden, json.GetInt("hidden", path));
  SF_ASSIGN_OR_RETURN(r.head_dim, json.GetInt("head_dim", path));
  SF_ASSIGN_OR_RETURN(const bool residual, json.GetBool("residual", path));
  SF_ASSIGN_OR_RETURN(const int64_t layers, json.GetInt("value_layers", path));
  SF_ASSIGN_OR_RETURN(const std::string sha256, json.GetString("sha256", path));
  if (const Json* record = json.Find("learnt")) r.record = *record;
  const auto sane = [](int64_t order) { return order >= 1 && order <= kMaxOrder; };
  if (!sane(r.hidden) || !sane(r.head_dim) || layers < 0 || layers > kMaxLayers) {
    return Corrupt(path, "its sizes are impossible");
  }
  if (static_cast<int64_t>(file->entries().size()) != layers + (residual ? 1 : 0)) {
    return Corrupt(path, absl::StrCat("holds ", file->entries().size(), " matrices where it speaks of ",
                                      layers + (residual ? 1 : 0)));
  }
  if (residual) {
    SF_ASSIGN_OR_RETURN(r.residual, ReadMatrix(*file, "R1", r.hidden, path));
  }
  for (int64_t l = 0; l < layers; ++l) {
    SF_ASSIGN_OR_RETURN(DenseMatrix m, ReadMatrix(*file, RotationTensorName(l), r.head_dim, path));
    r.values.push_back(std::move(m));
  }
  SealRotations(r);
  if (!r.any()) return Corrupt(path, "holds no matrix");
  if (r.sha256 != sha256) return Corrupt(path, "its matrices are not those it was written with");
  return r;
}

}  // namespace spikefold
