#include "formats/families/gguf_fields.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/json.h"
#include "formats/base/status.h"

namespace spikefold {

const GgufValue* GgufFields::Get(absl::string_view key) const {
  return file_.Find(absl::StrCat(arch_, ".", key));
}

void GgufFields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}
void GgufFields::Unsupported(absl::string_view what) {
  Fail(absl::UnimplementedError(absl::StrCat(file_.name(), ": ", what)));
}
void GgufFields::Contradiction(absl::string_view what) {
  Fail(absl::DataLossError(absl::StrCat(file_.name(), ": ", what)));
}

int64_t GgufFields::Int(absl::string_view key) {
  const std::string full = absl::StrCat(arch_, ".", key);
  if (const GgufValue* v = file_.Find(full)) {
    if (const auto* list = std::get_if<std::vector<int64_t>>(&v->v); list != nullptr && !list->empty()) {
      if (std::all_of(list->begin(), list->end(), [&](int64_t x) { return x == list->front(); }))
        return list->front();
      Unsupported(absl::StrCat("\"", full, "\" differs between layers, which is not supported"));
      return 0;
    }
  }
  const absl::StatusOr<int64_t> v = file_.GetInt(full);
  if (!v.ok()) Fail(v.status());
  return v.ok() ? *v : 0;
}
int64_t GgufFields::Int(absl::string_view key, int64_t fallback) {
  return Get(key) == nullptr ? fallback : Int(key);
}
double GgufFields::Number(absl::string_view key, double fallback) {
  if (Get(key) == nullptr) return fallback;
  const std::string full = absl::StrCat(arch_, ".", key);
  const absl::StatusOr<double> v = file_.GetDouble(full);
  if (!v.ok()) Fail(v.status());
  if (v.ok() && !std::isfinite(*v)) Contradiction(absl::StrCat("\"", full, "\" is not finite"));
  return v.ok() ? *v : 0;
}
std::string GgufFields::Text(absl::string_view key, absl::string_view fallback) {
  if (Get(key) == nullptr) return std::string(fallback);
  const absl::StatusOr<std::string> v = file_.GetString(absl::StrCat(arch_, ".", key));
  if (!v.ok()) Fail(v.status());
  return v.ok() ? *v : "";
}

namespace {

// Keys that are read here or in a family, or that do not touch the function. Any other is refused.
constexpr const char* kKnownKeys[] = {"block_count",
                                      "context_length",
                                      "embedding_length",
                                      "feed_forward_length",
                                      "vocab_size",
                                      "tensor_data_layout",
                                      "attention.head_count",
                                      "attention.head_count_kv",
                                      "attention.layer_norm_rms_epsilon",
                                      "attention.key_length",
                                      "attention.value_length",
                                      "attention.sliding_window",
                                      "attention.sliding_window_pattern",
                                      "rope.dimension_count",
                                      "rope.freq_base",
                                      "rope.freq_base_swa",
                                      "rope.scaling.type",
                                      "rope.scaling.factor",
                                      "rope.scale_linear",
                                      "rope.scaling.original_context_length",
                                      "rope.scaling.finetuned"};
// Keys that change the function, with the value under which they do nothing.
struct NeutralKey {
  const char* key;
  double neutral;
};
constexpr NeutralKey kNeutralKeys[] = {
    {"expert_count", 0},           {"expert_used_count", 0}, {"final_logit_softcapping", 0},
    {"attn_logit_softcapping", 0}, {"logit_scale", 1},       {"rope.scaling.attn_factor", 1}};

void RefuseUnknownKeys(GgufFields& f) {
  const std::string prefix = f.arch() + ".";
  for (const std::string& key : f.file().keys()) {
    if (!absl::StartsWith(key, prefix)) continue;
    const std::string name = key.substr(prefix.size());
    if (std::find(std::begin(kKnownKeys), std::end(kKnownKeys), name) != std::end(kKnownKeys)) continue;
    const auto* neutral = std::find_if(std::begin(kNeutralKeys), std::end(kNeutralKeys),
                                       [&](const NeutralKey& k) { return name == k.key; });
    if (neutral != std::end(kNeutralKeys)) {
      const double value = f.Number(name, 0);
      if (f.ok() && value != neutral->neutral) {
        f.Unsupported(absl::StrCat("\"", key, "\" is ", value, ", which is not supported; only ",
                                   neutral->neutral, " is"));
      }
      continue;
    }
    f.Unsupported(absl::StrCat("unknown metadata \"", Printable(key),
                               "\"; it may change what the model computes, so it is not ignored"));
  }
  if (const GgufValue* split = f.file().Find("split.count")) {
    const auto* n = std::get_if<int64_t>(&split->v);
    if (n == nullptr || *n > 1)
      f.Unsupported("is one part of a split model; merge it with llama-gguf-split first");
  }
}

void ReadRope(GgufFields& f, ModelConfig* c) {
  c->rope.theta = f.Number("rope.freq_base", 10000.0);
  const std::string type = f.Text("rope.scaling.type", "none");
  const double factor = f.Number("rope.scaling.factor", f.Number("rope.scale_linear", 1.0));
  if (type == "linear" || (type == "none" && f.Get("rope.scale_linear") != nullptr && factor != 1.0)) {
    c->rope.scaling = RopeScaling::kLinear;
    c->rope.factor = factor;
  } else if (type != "none") {
    f.Unsupported(absl::StrCat("rope scaling \"", Printable(type), "\"; supported are none and linear"));
  }
  if (f.ok() && (!(c->rope.theta > 0) || !(c->rope.factor > 0))) {
    f.Contradiction(
        absl::StrCat("rope base ", c->rope.theta, " and factor ", c->rope.factor, " must be positive"));
  }
  const GgufTensor* tensor = f.file().FindTensor("rope_freqs.weight");
  if (tensor == nullptr || !f.ok()) return;
  if (c->rope.scaling != RopeScaling::kNone)
    return f.Unsupported("has both rope_freqs.weight and rope scaling");
  if (tensor->shape != Shape{c->head_dim / 2}) {
    return f.Contradiction(absl::StrCat("rope_freqs.weight is ", ShapeString(tensor->shape), "; ",
                                        ShapeString({c->head_dim / 2}), " is needed"));
  }
  const absl::StatusOr<Tensor> factors = f.file().ReadF32(*tensor);
  if (!factors.ok()) return f.Fail(factors.status());
  absl::StatusOr<RopeConfig> rope = RopeFromFactors(factors->as<float>(), c->rope.theta, f.file().name());
  if (!rope.ok()) return f.Fail(rope.status());
  c->rope = *rope;
}

int64_t OptionalId(const GgufFile& file, absl::string_view key) {
  const absl::StatusOr<int64_t> v = file.GetInt(key);
  return v.ok() ? *v : -1;
}

}  // namespace

ModelConfig CommonFromGguf(GgufFields& f, const char* family, const char* architecture) {
  ModelConfig c;
  RefuseUnknownKeys(f);
  c.family = family;
  c.architecture = architecture;
  c.hidden = f.Int("embedding_length");
  c.intermediate = f.Int("feed_forward_length");
  c.num_layers = f.Int("block_count");
  c.num_heads = f.Int("attention.head_count");
  c.num_kv_heads = f.Int("attention.head_count_kv", c.num_heads);
  c.max_positions = f.Int("context_length", 0);
  c.norm_eps = static_cast<float>(f.Number("attention.layer_norm_rms_epsilon", 0));
  if (f.Get("attention.layer_norm_rms_epsilon") == nullptr) {
    f.Contradiction(absl::StrCat("metadata \"", f.arch(), ".attention.layer_norm_rms_epsilon\" is missing"));
  }
  c.head_dim = f.Int("attention.key_length", c.num_heads > 0 ? c.hidden / c.num_heads : 0);
  if (f.Get("attention.key_length") == nullptr && f.ok() &&
      (c.num_heads < 1 || c.hidden % c.num_heads != 0)) {
    f.Contradiction(absl::StrCat("head_count=", c.num_heads, " does not divide embedding_length=", c.hidden));
  }
  if (const int64_t v = f.Int("attention.value_length", c.head_dim); v != c.head_dim) {
    f.Unsupported(absl::StrCat("value_length=", v, " differs from key_length=", c.head_dim));
  }
  if (const int64_t rotated = f.Int("rope.dimension_count", c.head_dim); rotated != c.head_dim) {
    f.Unsupported(absl::StrCat("rope.dimension_count=", rotated, "; only the whole head_dim=", c.head_dim,
                               " is supported"));
  }
  const GgufTensor* embedding = f.file().FindTensor("token_embd.weight");
  if (embedding == nullptr) f.Contradiction("tensor token_embd.weight is missing");
  c.vocab = embedding == nullptr ? 0 : embedding->shape.front();
  const auto has = [&](const char* name) { return f.file().FindTensor(name) != nullptr; };
  c.tied_embeddings = !has("output.weight");
  c.qkv_bias = has("blk.0.attn_q.bias");
  c.o_bias = has("blk.0.attn_output.bias");
  c.mlp_bias = has("blk.0.ffn_up.bias");
  c.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));
  c.bos_id = OptionalId(f.file(), "tokenizer.ggml.bos_token_id");
  c.eos_id = OptionalId(f.file(), "tokenizer.ggml.eos_token_id");
  ReadRope(f, &c);
  return c;
}

namespace {

// transformers' _compute_llama3_parameters as a divisor of the frequency whose wavelength is given.
double Llama3Divisor(const RopeConfig& rope, double wavelength) {
  const double old = static_cast<double>(rope.original_max_positions);
  if (wavelength < old / rope.high_freq_factor) return 1.0;
  if (wavelength > old / rope.low_freq_factor) return rope.factor;
  const double smooth =
      (old / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return 1.0 / ((1.0 - smooth) / rope.factor + smooth);
}

bool Reproduces(const RopeConfig& rope, absl::Span<const float> factors,
                const std::vector<double>& wavelengths) {
  for (size_t i = 0; i < factors.size(); ++i) {
    const double d = Llama3Divisor(rope, wavelengths[i]);
    if (!(std::fabs(d - static_cast<double>(factors[i])) <= 2e-5 * d)) return false;
  }
  return true;
}

// Where the transition from divisors of 1 to rope.factor lies: sets the other parameters. In it 1/divisor is
// linear in 1/wavelength; two points give old/(high-low) and low/(high-low).
bool FitTransition(RopeConfig& rope, absl::Span<const float> factors,
                   const std::vector<double>& wavelengths) {
  std::vector<size_t> inside;
  double plain = 0, scaled = 0;  // the longest wavelength that is left, the shortest that is divided by all
  for (size_t i = 0; i < factors.size(); ++i) {
    const double f = static_cast<double>(factors[i]);
    if (f == 1) {
      plain = std::max(plain, wavelengths[i]);
    } else if (f >= rope.factor * (1 - 1e-6)) {
      scaled = scaled == 0 ? wavelengths[i] : std::min(scaled, wavelengths[i]);
    } else {
      inside.push_back(i);
    }
  }
  const auto smooth = [&](size_t i) {
    return (1 / static_cast<double>(factors[i]) - 1 / rope.factor) / (1 - 1 / rope.factor);
  };
  const auto fits = [&](double old, double high) {
    if (!(old >= 1 && old < 1e12 && high > 1 && high < 1e6)) return false;
    rope.original_max_positions = std::llround(old);
    rope.high_freq_factor = high;
    return Reproduces(rope, factors, wavelengths);
  };
  rope.low_freq_factor = 1;
  if (inside.empty()) {  // any place between the two: old/high and old
    const double old = std::floor(scaled);
    return plain > 0 && scaled > plain && fits(old, std::max(1 + 1e-6, std::sqrt(old / plain)));
  }
  const size_t i = inside.front(), j = inside.back();
  if (inside.size() == 1) {  // one equation: any old whose transition holds no other wavelength
    const double wavelength = wavelengths[i], end = scaled > 0 ? scaled : 1e4 * wavelength;
    for (double old = std::ceil(wavelength); old <= end; old = std::ceil(old * 1.02)) {
      const double high = 1 + (old / wavelength - 1) / smooth(i);
      if (old / high > plain && fits(old, high)) return true;
    }
    return false;
  }
  const double a = (smooth(i) - smooth(j)) / (1 / wavelengths[i] - 1 / wavelengths[j]);
  const double b = a / wavelengths[i] - smooth(i);
  const double old = std::round(a / b), high = 1 + 1 / b;
  return b > 0 && (fits(old, std::round(high * 1000) / 1000) || fits(old, high));
}

}  // namespace

absl::StatusOr<RopeConfig> RopeFromFactors(absl::Span<const float> factors, double theta,
                                           absl::string_view where) {
  RopeConfig rope;
  rope.theta = theta;
  double largest = 0;
  bool equal = !factors.empty();
  std::vector<double> wavelengths;
  for (size_t i = 0; i < factors.size(); ++i) {
    const double f = static_cast<double>(factors[i]);
    if (!std::isfinite(f) || !(f > 0)) {
      return absl::DataLossError(absl::StrCat(where, ": rope_freqs.weight[", i, "] is ", f,
                                              "; a positive number is "
                                              "needed"));
    }
    largest = std::max(largest, f);
    equal = equal && factors[i] == factors[0];
    wavelengths.push_back(2 * M_PI *
                          std::pow(theta, static_cast<double>(i) / static_cast<double>(factors.size())));
  }
  rope.factor = largest;
  if (equal) {
    rope.scaling = largest == 1.0 ? RopeScaling::kNone : RopeScaling::kLinear;
    return rope;
  }
  rope.scaling = RopeScaling::kLlama3;
  rope.low_freq_factor = 1.0;
  rope.high_freq_factor = 4.0;
  rope.original_max_positions = 8192;  // every published Llama 3
  if (Reproduces(rope, factors, wavelengths)) return rope;
  // The parameters are known up to a common factor, low = 1, and no further than the table tells: a factor
  // that no wavelength reaches is one of the usual ones.
  for (const double factor : {largest, 8.0, 32.0, 2.0, 4.0, 16.0, 64.0}) {
    if (factor < largest) continue;
    rope.factor = factor;
    if (FitTransition(rope, factors, wavelengths)) return rope;
  }
  return absl::UnimplementedError(
      absl::StrCat(where,
                   ": rope_freqs.weight does not follow Llama-3 scaling; other frequency tables are not "
                   "supported"));
}

}  // namespace spikefold
