#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/runtime/loaded_model.h"

namespace spikefold {
namespace {

absl::StatusOr<std::unique_ptr<Ops>> MakeOps(const LoadOptions& options) {
  if (options.pool == nullptr) return absl::InvalidArgumentError("load: a thread pool is needed");
  if (options.backend == Backend::kCuda) return MakeCudaOps(options.pool);
  if (options.backend == Backend::kFloat64) return MakeFloat64Ops(options.pool);
  return MakeCpuOps(options.pool);
}

absl::StatusOr<std::vector<float>> ReadVector(const CheckpointReader& reader, const std::string& name) {
  SF_ASSIGN_OR_RETURN(const Tensor tensor, reader.ReadF32(name));
  const auto values = tensor.as<float>();
  return std::vector<float>(values.begin(), values.end());
}

}  // namespace

std::vector<int> LoadOrder(const ModelGraph& graph) {
  std::vector<int> order;
  const auto wide = [](const Node& n) { return n.role == Role::kEmbedding || n.role == Role::kHead; };
  for (const bool first : {true, false}) {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const Node& node = graph.nodes[i];
      if (!node.module.empty() && wide(node) == first) order.push_back(static_cast<int>(i));
    }
  }
  return order;
}

absl::Status LoadedModel::LoadGain(const CheckpointReader& reader, int node) {
  const Node& n = graph_.nodes[static_cast<size_t>(node)];
  SF_ASSIGN_OR_RETURN(std::vector<float> gain, ReadVector(reader, n.module + ".weight"));
  for (float& g : gain) g += graph_.config.norm_gain_offset;
  gains_[static_cast<size_t>(node)] = std::move(gain);
  return absl::OkStatus();
}

absl::Status LoadedModel::LoadFloatLinear(const CheckpointReader& reader, int node) {
  const Node& n = graph_.nodes[static_cast<size_t>(node)];
  auto weights = std::make_shared<LinearWeights>();
  {
    SF_ASSIGN_OR_RETURN(const Tensor w, ReadF32(reader, n.module + ".weight", pool_));
    SF_RETURN_IF_ERROR(ops_->PackF32(w, *weights));
  }
  if (n.has_bias) {
    SF_ASSIGN_OR_RETURN(weights->bias, ReadVector(reader, n.module + ".bias"));
  }
  SF_RETURN_IF_ERROR(ops_->Prepare(*weights));
  linears_[static_cast<size_t>(node)] = std::move(weights);
  return absl::OkStatus();
}

absl::Status LoadedModel::LoadFloatNode(const CheckpointReader& reader, int node) {
  const Node& n = graph_.nodes[static_cast<size_t>(node)];
  if (n.op == Op::kNorm || n.op == Op::kHeadNorm) return LoadGain(reader, node);
  if (n.role == Role::kHead && graph_.config.tied_embeddings) {
    linears_[static_cast<size_t>(node)] = linears_[0];  // node 0 is the embedding
    return absl::OkStatus();
  }
  return LoadFloatLinear(reader, node);
}

absl::Status LoadedModel::LoadFloat(const CheckpointReader& reader, bool linears, const Progress& progress) {
  const std::vector<int> order = LoadOrder(graph_);
  for (size_t i = 0; i < order.size(); ++i) {
    if (!Report(progress, "loading", static_cast<int64_t>(i), static_cast<int64_t>(order.size()))) {
      return absl::CancelledError("load: stopped");
    }
    const Op op = graph_.nodes[static_cast<size_t>(order[i])].op;
    if (linears || op == Op::kNorm || op == Op::kHeadNorm) {
      SF_RETURN_IF_ERROR(LoadFloatNode(reader, order[i]));
    }
  }
  SetRotations();
  return absl::OkStatus();
}

void LoadedModel::SetRotations() {
  std::vector<std::shared_ptr<const RowRotation>> rotations;
  for (const Rotation& r : graph_.rotations) {
    rotations.push_back(IsOnline(r.place) ? MakeRowRotation(r) : nullptr);
  }
  for (const Site& site : graph_.sites) {
    ActivationForm& form = forms_[static_cast<size_t>(site.id)];
    if (site.rotation >= 0) form.rotation = rotations[static_cast<size_t>(site.rotation)];
    if (!site.shift.empty()) form.shift = std::make_shared<const std::vector<float>>(site.shift);
  }
  if (graph_.qk_rotation >= 0) qk_rotation_ = rotations[static_cast<size_t>(graph_.qk_rotation)];
}

absl::Status LoadedModel::ReplaceLinear(int node, LinearWeights weights) {
  const size_t at = static_cast<size_t>(node);
  const bool is_linear = node >= 0 && at < linears_.size() &&
                         (graph_.nodes[at].op == Op::kLinear || graph_.nodes[at].op == Op::kEmbed);
  if (!is_linear) return absl::InvalidArgumentError(absl::StrCat("replace: node ", node, " is not a linear"));
  const Node& old = graph_.nodes[at];
  if (weights.n != old.n || weights.k != old.k) {
    return absl::InvalidArgumentError(absl::StrCat(graph_.nodes[at].module, ": [", weights.n, ", ", weights.k,
                                                   "] cannot replace [", old.n, ", ", old.k, "]"));
  }
  linears_[at] = std::make_shared<LinearWeights>(std::move(weights));
  return absl::OkStatus();
}

absl::Status LoadedModel::set_kv(const KvOptions& options) {
  SF_RETURN_IF_ERROR(CheckKvOptions(options, graph_.config));
  if (options.k_before_rope && !options.is_float() && qk_rotation_ != nullptr) {
    return absl::InvalidArgumentError(
        "kv: keys before rotary embedding, in a model that rotates them behind it; use keys as attention "
        "sees "
        "them");
  }
  if (options.evict > 0 && qk_rotation_ != nullptr) return EvictsBehindRotation();
  kv_ = options;
  return absl::OkStatus();
}

uint64_t LoadedModel::weight_bytes() const {
  uint64_t bytes = 0;
  for (size_t i = 0; i < linears_.size(); ++i) {
    bytes += gains_[i].size() * sizeof(float);
    const LinearWeights* w = linears_[i].get();
    const bool shared = i > 0 && w == linears_[0].get();
    if (w != nullptr && !shared) bytes += w->MemoryBytes();
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<RuntimeModel>> LoadModel(const CheckpointReader& reader,
                                                        const LoadOptions& options) {
  SF_ASSIGN_OR_RETURN(auto ops, MakeOps(options));
  auto model = std::make_unique<LoadedModel>(reader.graph(), std::move(ops), *options.pool);
  if (reader.kind() == CheckpointKind::kNative) {
    if (options.backend == Backend::kFloat64) {
      return absl::UnimplementedError(
          absl::StrCat(reader.path(), ": is quantized; the float64 backend runs float models"));
    }
    SF_RETURN_IF_ERROR(model->LoadNative(reader, options.simulate, options.progress));
    return model;
  }
  SF_RETURN_IF_ERROR(model->LoadFloat(reader, options.linears, options.progress));
  return model;
}

}  // namespace spikefold
