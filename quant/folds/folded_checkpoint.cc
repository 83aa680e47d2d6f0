#include "quant/folds/folded_checkpoint.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

class Folded : public FoldedCheckpoint {
 public:
  Folded(std::unique_ptr<CheckpointReader> owned, const CheckpointReader& base, FoldedModel model,
         ThreadPool* pool)
      : owned_(std::move(owned)), base_(base), model_(std::move(model)), pool_(pool) {
    config_json_ = base_.config_json();
    // Both generations of config.json spell it so.
    if (model_.untied && config_json_.is_object()) config_json_.Set("tie_word_embeddings", false);
    const float eps = model_.graph.config.norm_eps, old_eps = base_.graph().config.norm_eps;
    if (eps != old_eps && config_json_.is_object()) {
      config_json_.Set("rms_norm_eps", static_cast<double>(eps));
    }
    ListTensors();
  }

  const CheckpointReader& base() const override { return base_; }
  const std::vector<std::string>& folds() const override { return model_.folds; }
  const std::vector<RefusedFold>& refused() const override { return model_.refused; }
  const Json& provenance() const override { return model_.provenance; }
  absl::Status set_memory(TensorMemory* memory) override {
    SF_ASSIGN_OR_RETURN(memory_key_, Fingerprint());
    memory_ = memory;
    return absl::OkStatus();
  }

  CheckpointKind kind() const override { return base_.kind(); }
  const std::string& path() const override { return base_.path(); }
  const ModelGraph& graph() const override { return model_.graph; }
  const std::vector<StoredTensor>& tensors() const override { return tensors_; }
  const StoredTensor* Find(absl::string_view name) const override {
    const auto it = index_.find(name);
    return it == index_.end() ? nullptr : &tensors_[it->second];
  }

  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override {
    if (const auto gain = model_.gains.find(name); gain != model_.gains.end()) {
      return Tensor::FromFloats({static_cast<int64_t>(gain->second.size())}, gain->second);
    }
    const auto shifted = model_.shifted_biases.find(name);
    return shifted == model_.shifted_biases.end() ? Rewritten(name) : ShiftedBias(name, shifted->second);
  }
  int64_t ReadMemory(absl::string_view name) const override {
    if (const auto shifted = model_.shifted_biases.find(name); shifted != model_.shifted_biases.end()) {
      return ReadMemory(model_.graph.nodes[static_cast<size_t>(shifted->second)].module + ".weight");
    }
    const auto it = model_.rewrites.find(name);
    if (it == model_.rewrites.end()) return base_.ReadMemory(name);
    const Shape& shape = Find(name)->shape;
    const int64_t values = static_cast<int64_t>(sizeof(float)) * NumElements(shape);
    const int64_t beside = RewriteMemory(it->second, pool_, shape[0], shape.size() > 1 ? shape[1] : 1);
    return std::max(base_.ReadMemory(it->second.source), values + beside);
  }
  // What a fold touched is stored nowhere: float32 then.
  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override {
    return IsFolded(name) ? ReadF32(name) : base_.ReadRaw(name);
  }

  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override { return base_.LoadTokenizer(); }
  const Json& config_json() const override { return config_json_; }
  absl::StatusOr<std::vector<SideFile>> SideFiles() const override { return base_.SideFiles(); }
  // A digest of the base's and of the folds, and their names.
  absl::StatusOr<std::string> Fingerprint() const override {
    SF_ASSIGN_OR_RETURN(const std::string base, base_.Fingerprint());
    if (model_.folds.empty()) return base;
    return absl::StrCat(Sha256Hex(absl::StrCat(base, "\n", model_.provenance.Dump())), "+",
                        absl::StrJoin(model_.folds, "+"));
  }
  uint64_t file_bytes() const override { return base_.file_bytes(); }

 private:
  absl::StatusOr<Tensor> Rewritten(absl::string_view name) const {
    const auto it = model_.rewrites.find(name);
    if (it == model_.rewrites.end()) return base_.ReadF32(name);
    if (memory_ != nullptr) {
      if (auto known = memory_->Find(memory_key_, name, pool_)) return *std::move(known);
    }
    SF_ASSIGN_OR_RETURN(Tensor tensor, base_.ReadF32(it->second.source));
    ApplyRewrite(it->second, pool_, &tensor);
    if (memory_ != nullptr) memory_->Remember(memory_key_, name, tensor);
    return tensor;
  }

  // b + W z
  absl::StatusOr<Tensor> ShiftedBias(absl::string_view name, int index) const {
    const Node& node = model_.graph.nodes[static_cast<size_t>(index)];
    const std::vector<float>& shift =
        model_.graph.sites[static_cast<size_t>(model_.graph.SiteOf(index))].shift;
    Tensor bias(DType::kF32, {node.n});
    if (base_.Find(name) != nullptr) {
      SF_ASSIGN_OR_RETURN(bias, Rewritten(name));
    } else {
      std::fill_n(bias.as<float>().data(), node.n, 0.0f);
    }
    SF_ASSIGN_OR_RETURN(const Tensor weight, Rewritten(node.module + ".weight"));
    const auto w = weight.as<float>();
    for (int64_t n = 0; n < node.n; ++n) {
      double sum = static_cast<double>(bias.as<float>()[static_cast<size_t>(n)]);
      for (size_t k = 0; k < shift.size(); ++k) {
        sum +=
            static_cast<double>(w[static_cast<size_t>(n) * shift.size() + k]) * static_cast<double>(shift[k]);
      }
      bias.as<float>()[static_cast<size_t>(n)] = static_cast<float>(sum);
    }
    return bias;
  }

  bool IsFolded(absl::string_view name) const {
    return model_.gains.contains(name) || model_.rewrites.contains(name) ||
           model_.shifted_biases.contains(name);
  }

  void Add(StoredTensor tensor) {
    if (IsFolded(tensor.name)) {
      tensor.stored_type = "F32";
      tensor.bytes = 4 * static_cast<uint64_t>(NumElements(tensor.shape));
    }
    index_.emplace(tensor.name, tensors_.size());
    tensors_.push_back(std::move(tensor));
  }

  void ListTensors() {
    for (const StoredTensor& tensor : base_.tensors()) Add(tensor);
    for (const std::string& name : model_.new_biases) {
      const Node& node = model_.graph.nodes[static_cast<size_t>(model_.shifted_biases.at(name))];
      Add({.name = name, .stored_name = name, .stored_type = "", .shape = {node.n}});
    }
    if (!model_.untied) return;
    const Node& head = model_.graph.nodes[static_cast<size_t>(model_.graph.FindModule("lm_head"))];
    const std::string name = head.module + ".weight";
    const StoredTensor* source = base_.Find(model_.rewrites.at(name).source);
    Add({.name = name, .stored_name = source->stored_name, .stored_type = "", .shape = {head.n, head.k}});
  }

  const std::unique_ptr<CheckpointReader> owned_;
  const CheckpointReader& base_;
  const FoldedModel model_;
  ThreadPool* const pool_;
  TensorMemory* memory_ = nullptr;
  std::string memory_key_;
  Json config_json_;
  std::vector<StoredTensor> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;
};

}  // namespace

std::unique_ptr<FoldedCheckpoint> MakeFoldedCheckpoint(std::unique_ptr<CheckpointReader> owned,
                                                       const CheckpointReader& base, FoldedModel model,
                                                       ThreadPool* pool) {
  return std::make_unique<Folded>(std::move(owned), base, std::move(model), pool);
}

}  // namespace spikefold
