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
    for (const Rotation& rotation : c->native_->info().rotations) {
      if (const absl::Status status = AddRotation(rotation, &c->graph_); !status.ok()) {
        return absl::DataLossError(absl::StrCat(path, ": ", status.message()));
      }
    }
    for (const NativeShift& shift : c->native_->info().shifts) SF_RETURN_IF_ERROR(c->AddShift(shift));
    c->file_bytes_ = c->native_->info().file_bytes;
    c->warnings_ = c->native_->warnings();
    SF_RETURN_IF_ERROR(c->FindSideFiles());
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
    const auto it = linears_.find(name);
    if (it == linears_.end()) return native_->ReadTensor(name);
    if (absl::EndsWith(name, ".weight") && it->second->format != WeightFormat::kFloat) {
      return absl::UnimplementedError(
          absl::StrCat(path_, ": ", name, " is quantized; it is read as a linear of the native checkpoint"));
    }
    SF_ASSIGN_OR_RETURN(QuantizedLinear linear, native_->ReadLinear(it->second->module));
    if (absl::EndsWith(name, ".weight")) return std::move(linear.float_weight);
    return Tensor::FromFloats({linear.n}, linear.bias);
  }
  bool ReadsRows(absl::string_view name) const override {
    return IsMatrix(name) && linears_.find(name) == linears_.end();
  }

 private:
  using DirectoryCheckpoint::DirectoryCheckpoint;

  absl::StatusOr<Tensor> ReadRawRows(absl::string_view name, int64_t begin, int64_t end) const override {
    return native_->ReadTensorRows(name, begin, end);
  }

  absl::Status AddShift(const NativeShift& shift) {
    for (Site& site : graph_.sites) {
      if (site.name != shift.site) continue;
      SF_RETURN_IF_ERROR(CheckShape({static_cast<int64_t>(shift.values.size())}, {site.k}, path_,
                                    absl::StrCat("shift of ", site.name)));
      for (const int linear : site.linears) {
        const Node& node = graph_.nodes[static_cast<size_t>(linear)];
        const QuantizedLinearSpec* const stored = native_->FindLinear(node.module);
        if (site.layer >= 0 && stored != nullptr && stored->has_bias) continue;
        return absl::DataLossError(
            absl::StrCat(path_, ": a shift of ", site.name, ", whose product has no bias to be in"));
      }
      site.shift = shift.values;
      return absl::OkStatus();
    }
    return absl::DataLossError(
        absl::StrCat(path_, ": a shift of \"", Printable(shift.site), "\", which the model has not"));
  }

  absl::Status MapTensors() {
    for (const SafetensorsEntry& entry : native_->plain()) AddEntry(entry);
    for (const QuantizedLinearSpec& linear : native_->info().linears) SF_RETURN_IF_ERROR(AddLinear(linear));
    for (const ModelGraph::TensorSpec& spec : graph_.Tensors()) {
      const StoredTensor* t = Find(spec.name);
      if (t == nullptr) return Missing(spec);
      SF_RETURN_IF_ERROR(CheckShape(t->shape, spec.shape, path_, spec.name));
    }
    return absl::OkStatus();
  }

  // A linear may have a bias that the float model has not (folded into it), and a tied model may have got a
  // head.
  absl::Status AddLinear(const QuantizedLinearSpec& linear) {
    const int node = graph_.FindModule(linear.module);
    if (node < 0) {
      return absl::DataLossError(absl::StrCat(path_, ": linear \"", Printable(linear.module),
                                              "\" has no place in a ", graph_.config.family, " model"));
    }
    const Node& place = graph_.nodes[static_cast<size_t>(node)];
    SF_RETURN_IF_ERROR(CheckShape({linear.n, linear.k}, {place.n, place.k}, path_, linear.module));
    std::string type(DTypeName(linear.float_dtype));
    if (!linear.format.is_float()) type = FormatWord(linear.format);
    if (linear.format.grouped) absl::StrAppend(&type, linear.group);
    const uint64_t bias_bytes = linear.has_bias ? 4 * static_cast<uint64_t>(linear.n) : 0;
    AddTensor({.name = linear.module + ".weight",
               .stored_name = linear.module,
               .stored_type = std::move(type),
               .shape = {linear.n, linear.k},
               .bytes = static_cast<uint64_t>(StoredBytes(linear)) - bias_bytes});
    linears_[linear.module + ".weight"] = &linear;
    if (!linear.has_bias) return absl::OkStatus();
    AddTensor({.name = linear.module + ".bias",
               .stored_name = linear.module + ".bias",
               .stored_type = "F32",
               .shape = {linear.n},
               .bytes = bias_bytes});
    linears_[linear.module + ".bias"] = &linear;
    return absl::OkStatus();
  }

  std::unique_ptr<NativeReader> native_;
  // Name of a weight or bias -> the linear that it belongs to. Pointers into native_->info().
  absl::flat_hash_map<std::string, const QuantizedLinearSpec*> linears_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenNativeCheckpoint(const std::string& path) {
  return NativeDirectory::Open(path);
}

}  // namespace spikefold
