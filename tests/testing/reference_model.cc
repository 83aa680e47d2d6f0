#include "tests/testing/reference_model.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"

namespace spikefold::testing {
namespace {

using Rows = std::vector<double>;

class Reference {
 public:
  Reference(const CheckpointReader& checkpoint, absl::Span<const int32_t> tokens)
      : in_(checkpoint),
        c_(checkpoint.graph().config),
        tokens_(tokens),
        t_(static_cast<int64_t>(tokens.size())) {}

  ReferenceRun Run() {
    const Rows table = Read("model.embed_tokens.weight");
    Rows h(Size(t_ * c_.hidden));
    for (int64_t t = 0; t < t_; ++t) {
      for (int64_t i = 0; i < c_.hidden; ++i) {
        h[Size(t * c_.hidden + i)] = c_.embedding_scale * table[Size(tokens_[Size(t)] * c_.hidden + i)];
      }
    }
    run_.residual.push_back(h);
    for (int64_t l = 0; l < c_.num_layers; ++l) {
      prefix_ = absl::StrCat("model.layers.", l, ".");
      slides_ = !c_.sliding_layers.empty() && c_.sliding_layers[Size(l)];
      Add(h, Attention(h));
      Add(h, Ffn(h));
      run_.residual.push_back(h);
    }
    prefix_ = "";
    const Rows last = Norm(h, "model.norm", c_.hidden);
    run_.logits = MatMul(last, c_.tied_embeddings ? table : Read("lm_head.weight"), c_.vocab, c_.hidden);
    return std::move(run_);
  }

 private:
  static size_t Size(int64_t n) { return static_cast<size_t>(n); }

  Rows Read(const std::string& name) const {
    auto tensor = in_.ReadF32(prefix_ + name);
    if (!tensor.ok()) std::abort();
    const auto values = tensor->as<float>();
    return Rows(values.begin(), values.end());
  }

  static Rows MatMul(const Rows& x, const Rows& w, int64_t n, int64_t k) {
    const int64_t m = static_cast<int64_t>(x.size()) / k;
    Rows y(Size(m * n));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t e = 0; e < k; ++e) sum += x[Size(i * k + e)] * w[Size(j * k + e)];
        y[Size(i * n + j)] = sum;
      }
    }
    return y;
  }
  Rows Linear(const Rows& x, const char* module, int64_t n, int64_t k, bool bias) const {
    Rows y = MatMul(x, Read(absl::StrCat(module, ".weight")), n, k);
    if (!bias) return y;
    const Rows b = Read(absl::StrCat(module, ".bias"));
    for (size_t i = 0; i < y.size(); ++i) y[i] += b[i % Size(n)];
    return y;
  }
  Rows Norm(const Rows& x, const char* module, int64_t k) const {
    const Rows gain = Read(absl::StrCat(module, ".weight"));
    Rows y(x.size());
    for (size_t row = 0; row < x.size() / Size(k); ++row) {
      double square = 0;
      for (size_t i = 0; i < Size(k); ++i) square += x[row * Size(k) + i] * x[row * Size(k) + i];
      const double inv = 1.0 / std::sqrt(square / static_cast<double>(k) + c_.norm_eps);
      for (size_t i = 0; i < Size(k); ++i) {
        y[row * Size(k) + i] = x[row * Size(k) + i] * inv * (gain[i] + c_.norm_gain_offset);
      }
    }
    return y;
  }
  static void Add(Rows& h, const Rows& branch) {
    for (size_t i = 0; i < h.size(); ++i) h[i] += branch[i];
  }

  // Rotary embedding written as complex rotation of (i, i + head_dim/2).
  void Rope(Rows& x, int64_t heads) const {
    const RopeConfig& r = slides_ ? c_.rope_local : c_.rope;
    const int64_t half = c_.head_dim / 2;
    for (int64_t t = 0; t < t_; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          double f = 1.0 / std::pow(r.theta, 2.0 * static_cast<double>(i) / static_cast<double>(c_.head_dim));
          if (r.scaling == RopeScaling::kLinear) f /= r.factor;
          if (r.scaling == RopeScaling::kLlama3) f = Llama3(r, f);
          double& a = x[Size((t * heads + h) * c_.head_dim + i)];
          double& b = x[Size((t * heads + h) * c_.head_dim + i + half)];
          const double co = std::cos(f * static_cast<double>(t)), si = std::sin(f * static_cast<double>(t));
          const double re = a * co - b * si, im = b * co + a * si;
          a = re;
          b = im;
        }
      }
    }
  }
  // As transformers writes it, by wavelengths.
  static double Llama3(const RopeConfig& r, double f) {
    const double wavelength = 2 * M_PI / f, original = static_cast<double>(r.original_max_positions);
    if (wavelength < original / r.high_freq_factor) return f;
    if (wavelength > original / r.low_freq_factor) return f / r.factor;
    const double smooth =
        (original / wavelength - r.low_freq_factor) / (r.high_freq_factor - r.low_freq_factor);
    return (1 - smooth) * f / r.factor + smooth * f;
  }

  Rows Attention(const Rows& h) {
    const int64_t d = c_.hidden, q_width = c_.num_heads * c_.head_dim,
                  kv_width = c_.num_kv_heads * c_.head_dim;
    const Rows x = Norm(h, "input_layernorm", d);
    Rows q = Linear(x, "self_attn.q_proj", q_width, d, c_.qkv_bias);
    Rows k = Linear(x, "self_attn.k_proj", kv_width, d, c_.qkv_bias);
    const Rows v = Linear(x, "self_attn.v_proj", kv_width, d, c_.qkv_bias);
    if (c_.qk_norm) {
      q = Norm(q, "self_attn.q_norm", c_.head_dim);
      k = Norm(k, "self_attn.k_norm", c_.head_dim);
    }
    Rope(q, c_.num_heads);
    Rope(k, c_.num_kv_heads);
    Rows y = Linear(Softmax(q, k, v), "self_attn.o_proj", d, q_width, c_.o_bias);
    return c_.sandwich_norm ? Norm(y, "post_attention_layernorm", d) : y;
  }

  Rows Softmax(const Rows& q, const Rows& k, const Rows& v) {
    const int64_t dim = c_.head_dim, group = c_.num_heads / c_.num_kv_heads;
    Rows o(q.size());
    run_.sink_mass.emplace_back(Size(c_.num_heads));
    for (int64_t h = 0; h < c_.num_heads; ++h) {
      for (int64_t t = 0; t < t_; ++t) {
        const int64_t from = slides_ ? std::max<int64_t>(0, t - c_.sliding_window + 1) : 0;
        const auto row = [&](int64_t j) { return (j * c_.num_kv_heads + h / group) * dim; };
        Rows p;
        for (int64_t j = from; j <= t; ++j) {
          double dot = 0;
          for (int64_t i = 0; i < dim; ++i) {
            dot += q[Size((t * c_.num_heads + h) * dim + i)] * k[Size(row(j) + i)];
          }
          p.push_back(dot * c_.attention_scale);
        }
        const double max = *std::max_element(p.begin(), p.end());
        double sum = 0;
        for (double& e : p) sum += e = std::exp(e - max);
        for (int64_t j = from; j <= t; ++j) {
          const double weight = p[Size(j - from)] / sum;
          if (j == 0) run_.sink_mass.back()[Size(h)] += weight / static_cast<double>(t_);
          for (int64_t i = 0; i < dim; ++i) {
            o[Size((t * c_.num_heads + h) * dim + i)] += weight * v[Size(row(j) + i)];
          }
        }
      }
    }
    return o;
  }

  Rows Ffn(const Rows& h) const {
    const Rows x =
        Norm(h, c_.sandwich_norm ? "pre_feedforward_layernorm" : "post_attention_layernorm", c_.hidden);
    Rows gate = Linear(x, "mlp.gate_proj", c_.intermediate, c_.hidden, c_.mlp_bias);
    const Rows up = Linear(x, "mlp.up_proj", c_.intermediate, c_.hidden, c_.mlp_bias);
    for (size_t i = 0; i < gate.size(); ++i) {
      const double g = gate[i];
      const double act = c_.activation == GateActivation::kSilu
                             ? g / (1 + std::exp(-g))
                             : 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
      gate[i] = act * up[i];
    }
    Rows y = Linear(gate, "mlp.down_proj", c_.hidden, c_.intermediate, c_.mlp_bias);
    return c_.sandwich_norm ? Norm(y, "post_feedforward_layernorm", c_.hidden) : y;
  }

  const CheckpointReader& in_;
  const ModelConfig& c_;
  absl::Span<const int32_t> tokens_;
  int64_t t_;
  std::string prefix_;
  bool slides_ = false;
  ReferenceRun run_;
};

}  // namespace

ReferenceRun RunReference(const CheckpointReader& checkpoint, absl::Span<const int32_t> tokens) {
  return Reference(checkpoint, tokens).Run();
}

}  // namespace spikefold::testing
