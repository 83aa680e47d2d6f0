// A native quantized directory as a checkpoint: plain tensors are read here, linears through NativeReader.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/checkpoint_directory.h"
#include "formats/quantized/native.h"

namespace spikefold {
namespace {

class NativeDirectory : public DirectoryCheckpoint {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& path) {
    std::unique_ptr<NativeDirectory> c(new NativeDirectory(path));
    SF_ASSIGN_OR_RETURN(c->native_, NativeReader::Open(path));
    SF_RETURN_IF_ERROR(c->SetConfig(c->native_->config_json()));
    c->file_bytes_ = c->native_->info().file_bytes;
    SF_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(path));
    std::vector<std::string> files;
    for (const std::string& name : names) {
      if (absl::EndsWith(name, ".safetensors") || name == "spikefold.json") files.push_back(name);
    }
    c->AddWeightFiles(files);
    SF_RETURN_IF_ERROR(c->MapTensors());
    return c;
  }

  CheckpointKind kind() const override { return CheckpointKind::kNative; }
  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override {
    if (Find(name) == nullptr) return NoSuchTensor(name);
    if (plain_.contains(name)) return native_->ReadTensor(name);
    return absl::UnimplementedError(absl::StrCat(
        path_, ": ", Printable(name), " is quantized; it is read as a linear of the native checkpoint"));
  }

 private:
  using DirectoryCheckpoint::DirectoryCheckpoint;

  absl::Status MapTensors() {
    for (const SafetensorsEntry& entry : native_->plain()) {
      plain_[entry.name] = true;
      AddEntry(entry);
    }
    for (const ModelGraph::TensorSpec& spec : graph_.Tensors()) {
      if (const StoredTensor* t = Find(spec.name)) {
        SF_RETURN_IF_ERROR(CheckShape(t->shape, spec.shape, path_, spec.name));
        continue;
      }
      const std::string& module = graph_.nodes[static_cast<size_t>(spec.node)].module;
      const QuantizedLinearSpec* linear = native_->FindLinear(module);
      const bool is_weight = absl::EndsWith(spec.name, ".weight");
      if (linear == nullptr || (!is_weight && !linear->has_bias)) return Missing(spec);
      if (is_weight) AddLinear(*linear, spec.name);
      if (is_weight) SF_RETURN_IF_ERROR(CheckShape({linear->n, linear->k}, spec.shape, path_, spec.name));
    }
    // A tied model may have got a head of its own.
    if (const QuantizedLinearSpec* head = native_->FindLinear("lm_head");
        head != nullptr && !Find("lm_head.weight")) {
      AddLinear(*head, "lm_head.weight");
      SF_RETURN_IF_ERROR(
          CheckShape({head->n, head->k}, {graph_.config.vocab, graph_.config.hidden}, path_, "lm_head"));
    }
    return absl::OkStatus();
  }

  void AddLinear(const QuantizedLinearSpec& linear, const std::string& name) {
    std::string type(DTypeName(linear.float_dtype));
    if (linear.format == WeightFormat::kS8c) type = "s8c";
    if (linear.format == WeightFormat::kS4g) type = absl::StrCat("s4g", linear.group);
    AddTensor({.name = name,
               .stored_name = linear.module,
               .stored_type = std::move(type),
               .shape = {linear.n, linear.k},
               .bytes = static_cast<uint64_t>(StoredBytes(linear))});
  }

  std::unique_ptr<NativeReader> native_;
  absl::flat_hash_map<std::string, bool> plain_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenNativeCheckpoint(const std::string& path) {
  return NativeDirectory::Open(path);
}

}  // namespace spikefold
