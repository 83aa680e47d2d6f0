// A GGUF file as a checkpoint: tensor names and rows in HF convention. What converters change (llama.cpp,
// convert_hf_to_gguf): names; the rows of q and k of the "llama" architecture, reordered for adjacent rotary
// pairs; Gemma's norm gains, stored with the 1 added.
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/status.h"
#include "formats/checkpoint_base.h"
#include "formats/families/family.h"
#include "formats/families/gguf_names.h"
#include "formats/gguf.h"
#include "formats/weight_rows.h"

namespace spikefold {
namespace {

// Rows [num_rows, k] of whole heads in the order of the file, to that of HF.
void UnpermuteHeads(float* rows, int64_t num_rows, int64_t head_rows, int64_t k) {
  const size_t row_bytes = static_cast<size_t>(k) * sizeof(float);
  const auto head = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(head_rows * k));
  for (int64_t begin = 0; begin < num_rows; begin += head_rows, rows += head_rows * k) {
    std::memcpy(head.get(), rows, static_cast<size_t>(head_rows) * row_bytes);
    for (int64_t row = 0; row < head_rows; ++row) {
      std::memcpy(rows + row * k, head.get() + GgufRotaryRow(row, head_rows) * k, row_bytes);
    }
  }
}

class GgufCheckpoint : public CheckpointBase {
 public:
  static absl::StatusOr<std::unique_ptr<CheckpointReader>> Open(const std::string& path) {
    std::unique_ptr<GgufCheckpoint> c(new GgufCheckpoint(path));
    SF_ASSIGN_OR_RETURN(c->file_, GgufFile::Open(path));
    SF_ASSIGN_OR_RETURN(const std::string architecture, c->file_->GetString("general.architecture"));
    SF_ASSIGN_OR_RETURN(const ModelConfig config, ConfigFromGguf(*c->file_));
    SF_ASSIGN_OR_RETURN(c->family_, FamilyOfGguf(architecture));
    absl::StatusOr<ModelGraph> graph = BuildGraph(config);
    if (!graph.ok()) {
      return absl::Status(graph.status().code(), absl::StrCat(path, ": ", graph.status().message()));
    }
    c->graph_ = *std::move(graph);
    c->config_json_ = ConfigToJson(config);
    c->weight_files_ = {{Basename(path), path}};
    c->file_bytes_ = c->file_->file_bytes();
    SF_RETURN_IF_ERROR(c->MapTensors());
    return c;
  }

  CheckpointKind kind() const override { return CheckpointKind::kGguf; }

  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override {
    const StoredTensor* stored = Find(name);
    if (stored == nullptr) return NoSuchTensor(name);
    const Node& node = graph_.nodes[static_cast<size_t>(nodes_.at(stored->name))];
    SF_ASSIGN_OR_RETURN(Tensor tensor, file_->ReadF32(*file_->FindTensor(stored->stored_name)));
    const ModelConfig& config = graph_.config;
    if (const int64_t heads = PermutedHeads(node); heads > 0) {
      const int64_t k = tensor.shape().size() == 2 ? tensor.dim(1) : 1;  // or a bias
      UnpermuteHeads(tensor.as<float>().data(), tensor.dim(0), tensor.dim(0) / heads, k);
    }
    const bool gain = node.op == Op::kNorm || node.op == Op::kHeadNorm;
    if (family_->gguf_norm_gain_includes_offset && gain) {
      for (float& g : tensor.as<float>()) g -= config.norm_gain_offset;
    }
    SF_RETURN_IF_ERROR(CheckFinite(tensor.as<float>(), path_, stored->name));
    return tensor;
  }

  bool ReadsRows(absl::string_view name) const override {
    const StoredTensor* stored = Find(name);
    return stored != nullptr && stored->shape.size() == 2;
  }
  absl::Status ReadF32Rows(absl::string_view name, int64_t begin, int64_t end, float* out) const override {
    const StoredTensor* stored = Find(name);
    if (stored == nullptr) return NoSuchTensor(name);
    SF_RETURN_IF_ERROR(CheckRows(stored->shape, begin, end, path_, name));
    const GgufTensor& tensor = *file_->FindTensor(stored->stored_name);
    const int64_t k = stored->shape[1], head_rows = RowsTogether(name);
    if (begin % head_rows == 0 && end % head_rows == 0) {
      SF_RETURN_IF_ERROR(file_->ReadF32Rows(tensor, begin, end, out));
      if (head_rows > 1) UnpermuteHeads(out, end - begin, head_rows, k);
    } else {
      for (int64_t row = begin; row < end; ++row) {
        const int64_t place = GgufRotaryRow(row, head_rows);
        SF_RETURN_IF_ERROR(file_->ReadF32Rows(tensor, place, place + 1, out + (row - begin) * k));
      }
    }
    return CheckFiniteRows(absl::MakeConstSpan(out, static_cast<size_t>((end - begin) * k)), name);
  }

  // Rows of q and k lie in another order within a head.
  int64_t RowsTogether(absl::string_view name) const override {
    const StoredTensor* stored = Find(name);
    if (stored == nullptr) return 1;
    const int64_t heads = PermutedHeads(graph_.nodes[static_cast<size_t>(nodes_.at(stored->name))]);
    return heads > 0 ? stored->shape[0] / heads : 1;
  }

  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override {
    return absl::UnimplementedError(
        absl::StrCat(path_, ": ", Printable(name), ": tensors of a GGUF file are read as float32 only"));
  }

  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return Tokenizer::FromGguf(*file_);
  }

  absl::StatusOr<std::vector<SideFile>> SideFiles() const override {
    std::vector<SideFile> files(1);
    files[0].name = "tokenizer.gguf";
    SF_ASSIGN_OR_RETURN(files[0].bytes, file_->MetadataOnly([](absl::string_view key) {
      return key == "general.architecture" || absl::StartsWith(key, "tokenizer.");
    }));
    return files;
  }

 private:
  using CheckpointBase::CheckpointBase;

  // Of a tensor whose rows lie in another order in the file; 0: of none.
  int64_t PermutedHeads(const Node& node) const {
    if (!family_->gguf_permutes_qk) return 0;
    if (node.role == Role::kQProj) return graph_.config.num_heads;
    return node.role == Role::kKProj ? graph_.config.num_kv_heads : 0;
  }

  absl::Status MapTensors() {
    absl::flat_hash_map<std::string, bool> used;
    for (const ModelGraph::TensorSpec& spec : graph_.Tensors()) {
      const Node& node = graph_.nodes[static_cast<size_t>(spec.node)];
      const bool bias = absl::EndsWith(spec.name, ".bias");
      const std::string stored_name = absl::StrCat(GgufModule(node), bias ? ".bias" : ".weight");
      const GgufTensor* t = file_->FindTensor(stored_name);
      if (t == nullptr) {
        return absl::DataLossError(
            absl::StrCat(path_, ": tensor ", stored_name, " (", spec.name, ") is missing"));
      }
      SF_RETURN_IF_ERROR(CheckShape(t->shape, spec.shape, path_, stored_name));
      AddTensor({.name = spec.name,
                 .stored_name = stored_name,
                 .stored_type = std::string(GgmlTypeName(static_cast<uint32_t>(t->type))),
                 .shape = t->shape,
                 .bytes = t->bytes});
      nodes_[spec.name] = spec.node;
      used[stored_name] = true;
    }
    for (const GgufTensor& t : file_->tensors()) {
      if (used.contains(t.name) || t.name == "rope_freqs.weight") continue;
      return absl::UnimplementedError(absl::StrCat(path_, ": tensor \"", Printable(t.name),
                                                   "\" has no place in a ", family_->name,
                                                   " model, so the model would not be the same without "
                                                   "it"));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<GgufFile> file_;
  const Family* family_ = nullptr;
  absl::flat_hash_map<std::string, int> nodes_;  // HF tensor name -> node
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenGgufCheckpoint(const std::string& path) {
  return GgufCheckpoint::Open(path);
}

}  // namespace spikefold
