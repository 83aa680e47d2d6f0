#include "formats/model_graph.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Far above any published model; low enough that no product of two of them leaves int64.
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxVocab = int64_t{1} << 28;

absl::Status CheckRange(const char* what, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("model config: ", what, "=", value, " is out of range; allowed are 1 to ", max));
}

absl::Status CheckConfig(const ModelConfig& c) {
  SF_RETURN_IF_ERROR(CheckRange("num_layers", c.num_layers, kMaxLayers));
  SF_RETURN_IF_ERROR(CheckRange("hidden_size", c.hidden, kMaxWidth));
  SF_RETURN_IF_ERROR(CheckRange("intermediate_size", c.intermediate, kMaxWidth));
  SF_RETURN_IF_ERROR(CheckRange("num_attention_heads", c.num_heads, kMaxWidth));
  SF_RETURN_IF_ERROR(CheckRange("num_key_value_heads", c.num_kv_heads, c.num_heads));
  SF_RETURN_IF_ERROR(CheckRange("head_dim", c.head_dim, kMaxWidth));
  SF_RETURN_IF_ERROR(CheckRange("query width (heads x head_dim)", c.num_heads * c.head_dim, kMaxWidth));
  SF_RETURN_IF_ERROR(CheckRange("vocab_size", c.vocab, kMaxVocab));
  if (c.num_heads % c.num_kv_heads != 0) {
    return absl::DataLossError(absl::StrCat("model config: num_key_value_heads=", c.num_kv_heads,
                                            " does not divide num_attention_heads=", c.num_heads));
  }
  if (c.head_dim % 2 != 0) {
    return absl::DataLossError(
        absl::StrCat("model config: head_dim=", c.head_dim, " is odd; rotary embedding needs pairs"));
  }
  if (!(c.norm_eps >= 0) || !std::isfinite(c.norm_eps)) {
    return absl::DataLossError(
        absl::StrCat("model config: norm_eps=", c.norm_eps, "; a finite number of at least 0 is needed"));
  }
  if (!(c.attention_scale > 0) || !std::isfinite(c.attention_scale)) {
    return absl::DataLossError(absl::StrCat("model config: attention_scale=", c.attention_scale,
                                            "; a finite positive number is needed"));
  }
  if (!c.sliding_layers.empty() && static_cast<int64_t>(c.sliding_layers.size()) != c.num_layers) {
    return absl::DataLossError(absl::StrCat("model config: ", c.sliding_layers.size(), " layer types for ",
                                            c.num_layers, " layers; one a layer is needed"));
  }
  for (const bool slides : c.sliding_layers) {
    if (slides && c.sliding_window < 1) {
      return absl::DataLossError(absl::StrCat("model config: sliding_window=", c.sliding_window,
                                              " with sliding-window layers; at least 1 is needed"));
    }
  }
  return absl::OkStatus();
}

// Appends the nodes of a model in order of execution.
class Builder {
 public:
  explicit Builder(const ModelConfig& config) : c_(config) { graph_.config = config; }

  ModelGraph Build() {
    Push({.op = Op::kEmbed,
          .role = Role::kEmbedding,
          .module = "model.embed_tokens",
          .in0 = ValueKind::kTokens,
          .out = ValueKind::kResidual,
          .n = c_.vocab,
          .k = c_.hidden});
    for (layer_ = 0; layer_ < c_.num_layers; ++layer_) {
      prefix_ = absl::StrCat("model.layers.", layer_, ".");
      Attention();
      Ffn();
    }
    layer_ = -1;
    prefix_ = "";
    Norm(Role::kFinalNorm, "model.norm", ValueKind::kResidual, ValueKind::kFinal);
    Linear(Role::kHead, "lm_head", false, ValueKind::kFinal, ValueKind::kLogits, c_.vocab, c_.hidden);
    MakeSites();
    return std::move(graph_);
  }

 private:
  using V = ValueKind;

  void Push(Node node) {
    node.layer = static_cast<int>(layer_);
    graph_.nodes.push_back(std::move(node));
  }
  void Norm(Role role, const char* name, V in, V out) {
    Push({.op = Op::kNorm,
          .role = role,
          .module = absl::StrCat(prefix_, name),
          .in0 = in,
          .out = out,
          .k = c_.hidden});
  }
  void Linear(Role role, const char* name, bool bias, V in, V out, int64_t n, int64_t k) {
    Push({.op = Op::kLinear,
          .role = role,
          .module = absl::StrCat(prefix_, name),
          .has_bias = bias,
          .in0 = in,
          .out = out,
          .n = n,
          .k = k});
  }
  void HeadNorm(Role role, const char* name, V value) {
    Push({.op = Op::kHeadNorm,
          .role = role,
          .module = absl::StrCat(prefix_, name),
          .in0 = value,
          .out = value,
          .k = c_.head_dim});
  }

  void Attention() {
    const int64_t q_width = c_.num_heads * c_.head_dim, kv_width = c_.num_kv_heads * c_.head_dim;
    Norm(Role::kAttnNorm, "input_layernorm", V::kResidual, V::kAttnIn);
    Linear(Role::kQProj, "self_attn.q_proj", c_.qkv_bias, V::kAttnIn, V::kQ, q_width, c_.hidden);
    Linear(Role::kKProj, "self_attn.k_proj", c_.qkv_bias, V::kAttnIn, V::kK, kv_width, c_.hidden);
    Linear(Role::kVProj, "self_attn.v_proj", c_.qkv_bias, V::kAttnIn, V::kV, kv_width, c_.hidden);
    if (c_.qk_norm) {
      HeadNorm(Role::kQNorm, "self_attn.q_norm", V::kQ);
      HeadNorm(Role::kKNorm, "self_attn.k_norm", V::kK);
    }
    Push({.op = Op::kRope, .in0 = V::kQ, .out = V::kQ});
    Push({.op = Op::kRope, .in0 = V::kK, .out = V::kK});
    Push({.op = Op::kAttention, .in0 = V::kQ, .in1 = V::kK, .out = V::kCtx});
    Linear(Role::kOProj, "self_attn.o_proj", c_.o_bias, V::kCtx, V::kAttnOut, c_.hidden, q_width);
    if (c_.sandwich_norm) Norm(Role::kPostAttnNorm, "post_attention_layernorm", V::kAttnOut, V::kAttnOut);
    Push({.op = Op::kAdd, .in0 = V::kResidual, .in1 = V::kAttnOut, .out = V::kResidual});
  }

  void Ffn() {
    // In the sandwich layout HF calls the norm after attention what others call the one before the FFN.
    Norm(Role::kFfnNorm, c_.sandwich_norm ? "pre_feedforward_layernorm" : "post_attention_layernorm",
         V::kResidual, V::kFfnIn);
    Linear(Role::kGateProj, "mlp.gate_proj", c_.mlp_bias, V::kFfnIn, V::kGate, c_.intermediate, c_.hidden);
    Linear(Role::kUpProj, "mlp.up_proj", c_.mlp_bias, V::kFfnIn, V::kUp, c_.intermediate, c_.hidden);
    Push({.op = Op::kGatedMul, .in0 = V::kGate, .in1 = V::kUp, .out = V::kDownIn});
    Linear(Role::kDownProj, "mlp.down_proj", c_.mlp_bias, V::kDownIn, V::kFfnOut, c_.hidden, c_.intermediate);
    if (c_.sandwich_norm) Norm(Role::kPostFfnNorm, "post_feedforward_layernorm", V::kFfnOut, V::kFfnOut);
    Push({.op = Op::kAdd, .in0 = V::kResidual, .in1 = V::kFfnOut, .out = V::kResidual});
  }

  void MakeSites() {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      if (node.op != Op::kLinear) continue;
      const bool same = !graph_.sites.empty() && graph_.sites.back().layer == node.layer &&
                        graph_.sites.back().value == node.in0;
      if (!same) {
        const absl::string_view value = ValueKindName(node.in0);
        graph_.sites.push_back(
            {.id = static_cast<int>(graph_.sites.size()),
             .layer = node.layer,
             .value = node.in0,
             .k = node.k,
             .linears = {},
             .name = node.layer < 0 ? std::string(value) : absl::StrCat("layers.", node.layer, ".", value)});
      }
      graph_.sites.back().linears.push_back(static_cast<int>(i));
    }
  }

  const ModelConfig& c_;
  ModelGraph graph_;
  int64_t layer_ = -1;
  std::string prefix_;
};

}  // namespace

absl::string_view ValueKindName(ValueKind kind) {
  static constexpr const char* kNames[] = {"tokens", "residual", "attn_in",  "q",      "k",
                                           "v",      "ctx",      "attn_out", "ffn_in", "gate",
                                           "up",     "down_in",  "ffn_out",  "final",  "logits"};
  return kNames[static_cast<size_t>(kind)];
}

absl::string_view RoleName(Role role) {
  static constexpr const char* kNames[] = {"embedding",      "head",          "attn_norm",  "ffn_norm",
                                           "post_attn_norm", "post_ffn_norm", "final_norm", "q_norm",
                                           "k_norm",         "q_proj",        "k_proj",     "v_proj",
                                           "o_proj",         "gate_proj",     "up_proj",    "down_proj"};
  return kNames[static_cast<size_t>(role)];
}

bool IsLinearRole(Role role) { return role == Role::kHead || role >= Role::kQProj; }

int ModelGraph::SiteOf(int node) const {
  for (const Site& site : sites) {
    for (const int linear : site.linears) {
      if (linear == node) return site.id;
    }
  }
  return -1;
}

int ModelGraph::FindModule(absl::string_view module) const {
  if (module.empty()) return -1;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].module == module) return static_cast<int>(i);
  }
  return -1;
}

std::vector<ModelGraph::TensorSpec> ModelGraph::Tensors() const {
  std::vector<TensorSpec> specs;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node& node = nodes[i];
    if (node.module.empty()) continue;
    if (node.role == Role::kHead && config.tied_embeddings) continue;
    const int index = static_cast<int>(i);
    const bool matrix = node.op == Op::kLinear || node.op == Op::kEmbed;
    std::vector<int64_t> shape = matrix ? std::vector<int64_t>{node.n, node.k} : std::vector<int64_t>{node.k};
    specs.push_back({absl::StrCat(node.module, ".weight"), std::move(shape), index});
    if (node.has_bias) specs.push_back({absl::StrCat(node.module, ".bias"), {node.n}, index});
  }
  return specs;
}

absl::Status AddRotation(Rotation r, ModelGraph* graph) {
  SF_RETURN_IF_ERROR(CheckRotation(r));
  const ModelConfig& c = graph->config;
  const bool per_head = r.place == RotationPlace::kValues || r.place == RotationPlace::kQueriesKeys;
  const int64_t width = per_head                              ? c.head_dim
                        : r.place == RotationPlace::kResidual ? c.hidden
                                                              : c.intermediate;
  const auto wrong = [&](const auto&... text) {
    return absl::InvalidArgumentError(
        absl::StrCat("rotation \"", r.name, "\" at ", RotationPlaceName(r.place), ": ", text...));
  };
  if (r.width() != width) return wrong("width ", r.width(), "; the model has ", width, " there");
  if (!r.layers.empty() && r.layers.back() >= c.num_layers) {
    return wrong("layer ", r.layers.back(), "; the model has ", c.num_layers);
  }
  for (const Rotation& other : graph->rotations) {
    if (other.name == r.name || other.place == r.place) return wrong("there is \"", other.name, "\" already");
  }
  const int index = static_cast<int>(graph->rotations.size());
  if (r.place == RotationPlace::kQueriesKeys) graph->qk_rotation = index;
  for (Site& site : graph->sites) {
    if (r.place != RotationPlace::kDownIn || site.value != ValueKind::kDownIn) continue;
    const bool listed = std::find(r.layers.begin(), r.layers.end(), site.layer) != r.layers.end();
    if (r.layers.empty() || listed) site.rotation = index;
  }
  graph->rotations.push_back(std::move(r));
  return absl::OkStatus();
}

absl::StatusOr<ModelGraph> BuildGraph(const ModelConfig& config) {
  SF_RETURN_IF_ERROR(CheckConfig(config));
  return Builder(config).Build();
}

}  // namespace spikefold
