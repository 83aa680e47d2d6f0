// A directory that another tool quantized, as a float model: each weight is dequantized when it is read.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/checkpoint_directory.h"
#include "formats/quantized/foreign.h"
#include "formats/safetensors_model.h"

namespace spikefold {
namespace {

class ForeignDirectory : public DirectoryCheckpoint {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& path, Json config_json) {
    std::unique_ptr<ForeignDirectory> c(new ForeignDirectory(path));
    const Json& quantization = *config_json.Find("quantization_config");
    SF_ASSIGN_OR_RETURN(c->config_, ParseForeignConfig(quantization, JoinPath(path, "config.json")));
    c->meaning_ = quantization.Dump() + "\n";
    config_json.Erase("quantization_config");
    SF_RETURN_IF_ERROR(c->SetConfig(std::move(config_json)));
    SF_ASSIGN_OR_RETURN(c->model_, SafetensorsModel::Open(path));
    c->AddWeightFiles(c->model_->file_names());
    c->file_bytes_ = c->model_->file_bytes();
    c->warnings_ = c->model_->warnings();
    SF_RETURN_IF_ERROR(c->FindSideFiles());
    SF_RETURN_IF_ERROR(c->MapTensors());
    return c;
  }

  // What is read is float; the file's own codes are nobody's business.
  CheckpointKind kind() const override { return CheckpointKind::kSafetensors; }

  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override {
    const StoredTensor* stored = Find(name);
    if (stored == nullptr) return NoSuchTensor(name);
    if (stored->stored_name == stored->name) return model_->Read(name);
    SF_ASSIGN_OR_RETURN(const std::unique_ptr<WeightRows> rows, OpenCodes(*stored));
    Tensor values(DType::kF32, stored->shape);
    SF_RETURN_IF_ERROR(rows->Read(0, stored->shape[0], values.as<float>().data()));
    return values;
  }
  // Codes become float32 at once, where others are widened.
  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override {
    const StoredTensor* stored = Find(name);
    if (stored == nullptr || stored->stored_name == stored->name) return DirectoryCheckpoint::ReadF32(name);
    SF_ASSIGN_OR_RETURN(Tensor values, ReadRaw(name));
    SF_RETURN_IF_ERROR(CheckFinite(values.as<float>(), path_, name));
    return values;
  }

  bool ReadsRows(absl::string_view name) const override {
    return IsMatrix(name) && Find(name)->stored_name == name;
  }
  absl::StatusOr<std::unique_ptr<WeightRows>> OpenRows(absl::string_view name) const override {
    const StoredTensor* stored = Find(name);
    if (stored == nullptr || stored->stored_name == stored->name) return DirectoryCheckpoint::OpenRows(name);
    SF_ASSIGN_OR_RETURN(std::unique_ptr<WeightRows> rows, OpenCodes(*stored));
    return std::make_unique<FiniteCodes>(*this, std::string(name), stored->shape[1], std::move(rows));
  }

 private:
  using DirectoryCheckpoint::DirectoryCheckpoint;

  absl::StatusOr<Tensor> ReadRawRows(absl::string_view name, int64_t begin, int64_t end) const override {
    return model_->ReadRows(name, begin, end);
  }

  // A scale that is not finite gives the error of the whole.
  class FiniteCodes : public WeightRows {
   public:
    FiniteCodes(const ForeignDirectory& directory, std::string name, int64_t k,
                std::unique_ptr<WeightRows> rows)
        : directory_(directory), name_(std::move(name)), k_(k), rows_(std::move(rows)) {}
    absl::Status Read(int64_t begin, int64_t end, float* out) const override {
      SF_RETURN_IF_ERROR(rows_->Read(begin, end, out));
      return directory_.CheckFiniteRows(absl::MakeConstSpan(out, static_cast<size_t>((end - begin) * k_)),
                                        name_);
    }

   private:
    const ForeignDirectory& directory_;
    const std::string name_;
    const int64_t k_;
    const std::unique_ptr<WeightRows> rows_;
  };

  absl::StatusOr<std::unique_ptr<WeightRows>> OpenCodes(const StoredTensor& stored) const {
    const std::string module(absl::StripSuffix(stored.name, ".weight"));
    const ForeignParts parts{
        .has =
            [&](absl::string_view suffix) {
              return model_->Find(absl::StrCat(module, ".", suffix)) != nullptr;
            },
        .read = [&](absl::string_view suffix) { return model_->Read(absl::StrCat(module, ".", suffix)); }};
    auto rows = OpenForeign(config_, parts, module, stored.shape[0], stored.shape[1]);
    if (rows.ok()) return rows;
    return absl::Status(rows.status().code(), absl::StrCat(path_, ": ", rows.status().message()));
  }

  // The codes of a linear's weight, null if it is float.
  const SafetensorsEntry* CodesOf(const std::string& module) const {
    for (const std::string& suffix : ForeignSuffixes(config_.layout)) {
      const SafetensorsEntry* entry = model_->Find(absl::StrCat(module, ".", suffix));
      if (entry != nullptr && !IsFloat(entry->dtype)) return entry;
    }
    return nullptr;
  }

  // All that belongs to a quantized linear.
  uint64_t BytesOf(const std::string& module) const {
    uint64_t bytes = 0;
    for (const SafetensorsEntry* entry : model_->entries()) {
      if (IsPart(entry->name, module)) bytes += entry->bytes;
    }
    return bytes;
  }
  static bool IsPart(absl::string_view name, absl::string_view module) {
    if (!absl::ConsumePrefix(&name, module) || !absl::ConsumePrefix(&name, ".")) return false;
    static constexpr const char* kParts[] = {"qweight",      "qzeros",       "scales",
                                             "g_idx",        "weight",       "weight_packed",
                                             "weight_shape", "weight_scale", "weight_zero_point",
                                             "weight_g_idx", "input_scale",  "input_zero_point"};
    return std::find(std::begin(kParts), std::end(kParts), name) != std::end(kParts);
  }

  absl::Status MapTensors() {
    for (const ModelGraph::TensorSpec& spec : graph_.Tensors()) {
      const std::string module(absl::StripSuffix(spec.name, ".weight"));
      const SafetensorsEntry* codes = spec.shape.size() == 2 ? CodesOf(module) : nullptr;
      if (codes != nullptr) {
        AddTensor({.name = spec.name,
                   .stored_name = codes->name == spec.name ? absl::StrCat(codes->name, " (I8)") : codes->name,
                   .stored_type = config_.name,
                   .shape = spec.shape,
                   .bytes = BytesOf(module)});
        quantized_.push_back(module);
        continue;
      }
      const SafetensorsEntry* entry = model_->Find(spec.name);
      if (entry == nullptr) return Missing(spec);
      SF_RETURN_IF_ERROR(CheckShape(entry->shape, spec.shape, path_, spec.name));
      if (!IsFloat(entry->dtype)) return NotFloat(spec.name, entry->dtype);
      AddEntry(*entry);
    }
    for (const SafetensorsEntry* entry : model_->entries()) SF_RETURN_IF_ERROR(CheckPlace(*entry));
    return absl::OkStatus();
  }

  absl::Status CheckPlace(const SafetensorsEntry& entry) const {
    const std::string& name = entry.name;
    if (Find(name) != nullptr || absl::EndsWith(name, "rotary_emb.inv_freq")) return absl::OkStatus();
    if (name == "lm_head.weight" && graph_.config.tied_embeddings) return CheckTiedHead(entry);
    for (const std::string& module : quantized_) {
      if (IsPart(name, module)) return absl::OkStatus();
    }
    if (absl::EndsWith(name, ".bias")) {  // some tools give every linear one
      SF_ASSIGN_OR_RETURN(const Tensor raw, model_->Read(name));
      if (IsFloat(raw.dtype())) {
        const Tensor bias = ToF32(raw.view());
        const auto values = bias.as<float>();
        if (std::all_of(values.begin(), values.end(), [](float v) { return v == 0; }))
          return absl::OkStatus();
      }
    }
    return absl::UnimplementedError(absl::StrCat(
        path_, ": tensor \"", Printable(name), "\" has no place in a ", graph_.config.family,
        " model quantized by ", config_.name, ", so the model would not be the same without it"));
  }

  ForeignConfig config_;
  std::unique_ptr<SafetensorsModel> model_;
  std::vector<std::string> quantized_;  // modules
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenForeignCheckpoint(const std::string& path,
                                                                        Json config_json) {
  return ForeignDirectory::Open(path, std::move(config_json));
}

}  // namespace spikefold
