#include "tests/testing/tiny_model.h"

#include <cmath>
#include <cstdlib>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace spikefold::testing {
namespace {

using Vector = std::vector<double>;

constexpr double kSpikeTokenLength = 20;  // of the sink token's embedding along s
constexpr double kSpikeTokenNoise = 0.1;  // its other entries
constexpr double kCommonLength = 6;       // of the other tokens' common direction
constexpr double kTokenNoise = 0.55;      // their other entries

size_t Size(int64_t n) { return static_cast<size_t>(n); }
double Dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
double Length(const Vector& a) { return std::sqrt(Dot(a, a)); }

ModelConfig ConfigOf(const TinyModelOptions& o) {
  ModelConfig c;
  c.family = o.sandwich ? "gemma3" : o.qk_norm ? "qwen3" : o.qkv_bias && !o.o_bias ? "qwen2" : "llama";
  c.architecture = o.sandwich                ? "Gemma3ForCausalLM"
                   : o.qk_norm               ? "Qwen3ForCausalLM"
                   : o.qkv_bias && !o.o_bias ? "Qwen2ForCausalLM"
                                             : "LlamaForCausalLM";
  c.hidden = o.hidden;
  c.intermediate = o.intermediate;
  c.num_layers = o.num_layers;
  c.num_heads = o.num_heads;
  c.num_kv_heads = o.num_kv_heads;
  c.head_dim = o.head_dim;
  c.vocab = o.vocab;
  c.max_positions = o.max_positions;
  c.norm_eps = o.norm_eps;
  c.activation = o.activation;
  c.qkv_bias = o.qkv_bias;
  c.o_bias = o.o_bias;
  c.mlp_bias = o.mlp_bias;
  c.qk_norm = o.qk_norm;
  c.sandwich_norm = o.sandwich;
  c.norm_gain_offset = o.norm_gain_offset;
  c.tied_embeddings = o.tied;
  c.embedding_scale = o.embedding_scale;
  c.attention_scale = 1.0f / std::sqrt(static_cast<float>(o.head_dim));
  c.rope = o.rope;
  c.rope_local = o.rope_local;
  c.sliding_window = o.sliding_window;
  c.sliding_layers = o.sliding_layers;
  c.bos_id = o.bos_id;
  return c;
}

class Maker {
 public:
  explicit Maker(const TinyModelOptions& options) : o_(options), random_(options.seed) {}

  TinyModel Make() {
    auto graph = BuildGraph(ConfigOf(o_));
    if (!graph.ok()) std::abort();
    tiny_.checkpoint = std::make_unique<MemoryCheckpoint>(*graph);
    for (const ModelGraph::TensorSpec& spec : graph->Tensors()) {
      const Node& node = graph->nodes[Size(spec.node)];
      tiny_.checkpoint->Add(spec.name, Random(spec, node));
    }
    if (!o_.spike_channels.empty()) Plant();
    return std::move(tiny_);
  }

 private:
  double Normal() { return normal_(random_); }

  Tensor Random(const ModelGraph::TensorSpec& spec, const Node& node) {
    Tensor t(DType::kF32, spec.shape);
    const bool bias = absl::EndsWith(spec.name, ".bias");
    const double k = static_cast<double>(node.k);
    for (float& value : t.as<float>()) {
      double x = Normal();
      if (bias) {
        x *= 0.05;
      } else if (node.op == Op::kNorm || node.op == Op::kHeadNorm) {
        x = (o_.random_gains ? 0.5 + Uniform() : 1.0) - o_.norm_gain_offset;
      } else if (node.role == Role::kEmbedding) {
        x *= kTokenNoise;
      } else if (node.role == Role::kOProj || node.role == Role::kDownProj) {
        x *= o_.write_scale * 4 / std::sqrt(k);
      } else {
        x /= std::sqrt(k);
      }
      value = static_cast<float>(x);
    }
    return t;
  }
  double Uniform() { return std::generate_canonical<double, 53>(random_); }

  Tensor& Weight(int layer, const char* module) {
    return tiny_.checkpoint->tensor(absl::StrCat("model.layers.", layer, ".", module, ".weight"));
  }
  static double At(const Tensor& t, int64_t row, int64_t column) {
    return t.as<float>()[Size(row * t.dim(1) + column)];
  }
  static void Set(Tensor& t, int64_t row, int64_t column, double value) {
    t.as<float>()[Size(row * t.dim(1) + column)] = static_cast<float>(value);
  }
  static void SetRow(Tensor& t, int64_t row, const Vector& values, double factor) {
    for (int64_t i = 0; i < t.dim(1); ++i) Set(t, row, i, values[Size(i)] * factor);
  }

  void Plant() {
    PlantedSpikes& p = tiny_.planted;
    const bool plain = !o_.sandwich && !o_.random_gains && o_.embedding_scale == 1 && !o_.qk_norm &&
                       !o_.o_bias && !o_.mlp_bias && !o_.qkv_bias;
    if (!plain || o_.step_up >= o_.step_down || o_.step_down >= o_.num_layers) std::abort();
    p.channels = o_.spike_channels;
    p.step_up = o_.step_up;
    p.step_down = o_.step_down;
    p.token = o_.sink_token;
    p.writer_unit = o_.intermediate / 3;
    p.remover_unit = o_.intermediate / 2;
    for (size_t c = 0; c < p.channels.size(); ++c) {
      betas_.push_back(o_.betas[std::min(c, o_.betas.size() - 1)]);
    }
    channel_unit_.assign(Size(o_.hidden), 0);  // beta / |beta| on the channels
    for (size_t c = 0; c < betas_.size(); ++c)
      channel_unit_[Size(p.channels[c])] = betas_[c] / Length(betas_);
    p.direction = Unit(nullptr);
    common_ = Unit(&p.direction);
    PlantEmbedding();
    for (int l = 0; l < o_.num_layers; ++l) {
      // Up to the spike a layer writes hardly anything, so that the spike's height is known.
      const double keep = l <= o_.step_up ? 0.02 : 1;
      Hide(Weight(l, "self_attn.o_proj"), keep);
      Hide(Weight(l, "mlp.down_proj"), keep);
      if (l > o_.step_up && l <= o_.step_down) PlantSink(l);
    }
    PlantNeurons();
  }

  // A random unit vector, zero on the spike channels and at right angles to `other`.
  Vector Unit(const Vector* other) {
    Vector u(Size(o_.hidden));
    for (double& x : u) x = Normal();
    for (const int64_t c : tiny_.planted.channels) u[Size(c)] = 0;
    if (other != nullptr) {
      const double along = Dot(u, *other);
      for (size_t i = 0; i < u.size(); ++i) u[i] -= along * (*other)[i];
    }
    const double length = Length(u);
    for (double& x : u) x /= length;
    return u;
  }

  void PlantEmbedding() {
    const Vector& s = tiny_.planted.direction;
    Tensor& table = tiny_.checkpoint->tensor("model.embed_tokens.weight");
    for (int64_t token = 0; token < o_.vocab; ++token) {
      const bool sink = token == o_.sink_token;
      Vector e(Size(o_.hidden));
      for (double& x : e) x = Normal() * (sink ? kSpikeTokenNoise : kTokenNoise);
      for (const int64_t c : tiny_.planted.channels) e[Size(c)] = 0;
      const double along_s = Dot(e, s), along_common = Dot(e, common_);
      for (size_t i = 0; i < e.size(); ++i) {
        e[i] += sink ? (kSpikeTokenLength - along_s) * s[i]
                     : -along_s * s[i] + (kCommonLength - along_common) * common_[i];
      }
      SetRow(table, token, e, 1);
      if (sink) cos2_ = kSpikeTokenLength * kSpikeTokenLength / Dot(e, e);
    }
    for (const double beta : betas_) {
      tiny_.planted.heights.push_back(beta * static_cast<double>(o_.hidden) * cos2_);
    }
  }

  // The random part of a writer touches neither the spike channels nor s.
  void Hide(Tensor& w, double keep) {
    const Vector& s = tiny_.planted.direction;
    for (int64_t k = 0; k < w.dim(1); ++k) {
      double along = 0;
      for (const int64_t c : tiny_.planted.channels) Set(w, c, k, 0);
      for (int64_t n = 0; n < w.dim(0); ++n) along += s[Size(n)] * At(w, n, k);
      for (int64_t n = 0; n < w.dim(0); ++n) Set(w, n, k, keep * (At(w, n, k) - along * s[Size(n)]));
    }
  }

  // Step-up: the FFN of a gated unit whose gate and up rows are both s is (sqrt(d) cos)^2 = d cos^2 for a row
  // along s, and 0 for a row without s. Step-down: the same with the spike's own direction, whose cos is 1.
  void PlantNeurons() {
    const PlantedSpikes& p = tiny_.planted;
    SetRow(Weight(p.step_up, "mlp.gate_proj"), p.writer_unit, p.direction, 1);
    SetRow(Weight(p.step_up, "mlp.up_proj"), p.writer_unit, p.direction, 1);
    SetRow(Weight(p.step_down, "mlp.gate_proj"), p.remover_unit, channel_unit_, 1);
    SetRow(Weight(p.step_down, "mlp.up_proj"), p.remover_unit, channel_unit_, 1);
    Tensor& up = Weight(p.step_up, "mlp.down_proj");
    Tensor& down = Weight(p.step_down, "mlp.down_proj");
    for (int64_t n = 0; n < o_.hidden; ++n) Set(up, n, p.writer_unit, 0);
    for (int64_t n = 0; n < o_.hidden; ++n) Set(down, n, p.remover_unit, 0);
    for (size_t c = 0; c < betas_.size(); ++c) {
      Set(up, p.channels[c], p.writer_unit, betas_[c]);
      Set(down, p.channels[c], p.remover_unit, -betas_[c] * cos2_);
    }
  }

  // Query head 0 looks for the spike with every ordinary row: key component r is the spike, query component r
  // the common direction, in the slowest rotary pair. Values are zero there: the sink adds nothing.
  void PlantSink(int layer) {
    const double d = static_cast<double>(o_.hidden);
    const int64_t r = o_.head_dim / 2 - 1, partner = o_.head_dim - 1;
    const double key = std::sqrt(d);
    const double rms = std::sqrt((kCommonLength * kCommonLength + d * kTokenNoise * kTokenNoise) / d);
    const double wanted =
        std::log(static_cast<double>(o_.sink_window)) + std::log(o_.sink_mass / (1 - o_.sink_mass));
    const double kappa = wanted * std::sqrt(static_cast<double>(o_.head_dim)) / (key * kCommonLength / rms);
    const Vector zero(Size(o_.hidden));
    Tensor& k = Weight(layer, "self_attn.k_proj");
    Tensor& q = Weight(layer, "self_attn.q_proj");
    Tensor& v = Weight(layer, "self_attn.v_proj");
    SetRow(k, r, channel_unit_, 1);
    SetRow(k, partner, zero, 1);
    for (int64_t head = 0; head < o_.num_heads / o_.num_kv_heads; ++head) {
      SetRow(q, head * o_.head_dim + r, common_, head == 0 ? kappa : 0);
      SetRow(q, head * o_.head_dim + partner, zero, 1);
    }
    for (int64_t n = 0; n < v.dim(0); ++n) {
      for (const int64_t c : tiny_.planted.channels) Set(v, n, c, 0);
    }
    tiny_.planted.sink_heads.emplace_back(layer, 0);
  }

  const TinyModelOptions& o_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  TinyModel tiny_;
  Vector betas_, channel_unit_, common_;
  double cos2_ = 1;
};

}  // namespace

TinyModel MakeTinyModel(const TinyModelOptions& options) { return Maker(options).Make(); }

}  // namespace spikefold::testing
