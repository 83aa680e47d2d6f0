#include "apps/spikefold/fold_legality.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/families/family.h"
#include "quant/folds/folds.h"

namespace spikefold {
namespace {

// The graph's model without its values: every tensor is zero. Folds prove themselves from the graph; what
// they read at once are norm gains, whose values decide nothing.
class GraphOnly : public CheckpointReader {
 public:
  explicit GraphOnly(const ModelGraph& graph) : graph_(graph), config_(ConfigToJson(graph.config)) {
    for (const ModelGraph::TensorSpec& spec : graph_.Tensors()) {
      stored_.push_back({.name = spec.name,
                         .stored_name = spec.name,
                         .stored_type = "F32",
                         .shape = Shape(spec.shape.begin(), spec.shape.end())});
    }
  }
  CheckpointKind kind() const override { return CheckpointKind::kSafetensors; }
  const std::string& path() const override { return path_; }
  const ModelGraph& graph() const override { return graph_; }
  const std::vector<StoredTensor>& tensors() const override { return stored_; }
  const StoredTensor* Find(absl::string_view name) const override {
    const auto it = std::find_if(stored_.begin(), stored_.end(),
                                 [&](const StoredTensor& tensor) { return tensor.name == name; });
    return it == stored_.end() ? nullptr : &*it;
  }
  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override {
    const StoredTensor* tensor = Find(name);
    if (tensor == nullptr) return absl::NotFoundError(absl::StrCat(name, ": no such tensor"));
    return Tensor(DType::kF32, tensor->shape);
  }
  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override { return ReadF32(name); }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override {
    return absl::UnimplementedError("a graph alone has no tokenizer");
  }
  const Json& config_json() const override { return config_; }
  absl::StatusOr<std::vector<SideFile>> SideFiles() const override { return std::vector<SideFile>(); }
  absl::StatusOr<std::string> Fingerprint() const override { return std::string("graph"); }
  uint64_t file_bytes() const override { return 0; }

 private:
  const std::string path_ = "graph";
  const ModelGraph& graph_;
  const Json config_;
  std::vector<StoredTensor> stored_;
};

struct Candidate {
  const char *fold, *what;
  FoldOptions options;
};

// Scales of one in a middle layer's site.
FoldOptions Smooth(const ModelGraph& graph, ValueKind value) {
  const int layer = static_cast<int>(graph.config.num_layers / 2);
  const ModelConfig& c = graph.config;
  for (const Site& site : graph.sites) {
    if (site.layer != layer || site.value != value) continue;
    const int64_t width = value == ValueKind::kCtx ? c.num_kv_heads * c.head_dim : site.k;
    return {.smooth = {{.layer = layer,
                        .value = value,
                        .scales = std::vector<float>(static_cast<size_t>(width), 2.0f)}}};
  }
  return {};
}

}  // namespace

absl::StatusOr<std::vector<FoldLegality>> FoldLegalities(const ModelGraph& graph) {
  const GraphOnly model(graph);
  const Candidate candidates[] = {
      {"norm_gain", "norm gains go into the linears behind them", {.norm_gain = true}},
      {"R1", "the residual is rotated", {.rotate_residual = true}},
      {"R2", "values are rotated head by head", {.rotate_values = true}},
      {"R3", "queries and keys are rotated online", {.rotate_qk = true}},
      {"R4", "down_proj's input is rotated online", {.rotate_down = true}},
      {"smooth attn_in", "scales from the norm into q, k, v", Smooth(graph, ValueKind::kAttnIn)},
      {"smooth ctx", "scales from v into o", Smooth(graph, ValueKind::kCtx)},
      {"smooth ffn_in", "scales from the norm into gate, up", Smooth(graph, ValueKind::kFfnIn)},
      {"smooth down_in", "scales from up into down", Smooth(graph, ValueKind::kDownIn)},
  };
  std::vector<FoldLegality> out;
  for (const Candidate& candidate : candidates) {
    SF_ASSIGN_OR_RETURN(const auto folded, FoldCheckpoint(model, candidate.options));
    FoldLegality legality{.fold = candidate.fold, .what = candidate.what, .reason = "", .exception = ""};
    // Some parts of a fold may be legal where others are not: norm gains, but not the head's.
    std::string& why = folded->folds().empty() ? legality.reason : legality.exception;
    if (!folded->refused().empty()) why = folded->refused().front().reason;
    out.push_back(std::move(legality));
  }
  return out;
}

}  // namespace spikefold
