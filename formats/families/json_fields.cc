#include "formats/families/json_fields.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {

const Json* JsonFields::Get(absl::string_view key) const {
  const Json* v = json_.Find(key);
  return v == nullptr || v->is_null() ? nullptr : v;
}

void JsonFields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}
void JsonFields::Unsupported(absl::string_view what) {
  Fail(absl::UnimplementedError(absl::StrCat(where_, ": ", what)));
}
void JsonFields::Contradiction(absl::string_view what) {
  Fail(absl::DataLossError(absl::StrCat(where_, ": ", what)));
}

int64_t JsonFields::Int(absl::string_view key) {
  absl::StatusOr<int64_t> v = json_.GetInt(key, where_);
  if (!v.ok()) Fail(v.status());
  return v.ok() ? *v : 0;
}
int64_t JsonFields::Int(absl::string_view key, int64_t fallback) {
  return Get(key) == nullptr ? fallback : Int(key);
}
double JsonFields::Number(absl::string_view key) {
  absl::StatusOr<double> v = json_.GetDouble(key, where_);
  if (v.ok() && !std::isfinite(*v)) Contradiction(absl::StrCat("\"", key, "\" is not finite"));
  if (!v.ok()) Fail(v.status());
  return v.ok() ? *v : 0;
}
double JsonFields::Number(absl::string_view key, double fallback) {
  return Get(key) == nullptr ? fallback : Number(key);
}
bool JsonFields::Bool(absl::string_view key, bool fallback) {
  if (Get(key) == nullptr) return fallback;
  absl::StatusOr<bool> v = json_.GetBool(key, where_);
  if (!v.ok()) Fail(v.status());
  return v.ok() && *v;
}
std::string JsonFields::Text(absl::string_view key, absl::string_view fallback) {
  if (Get(key) == nullptr) return std::string(fallback);
  absl::StatusOr<std::string> v = json_.GetString(key, where_);
  if (!v.ok()) Fail(v.status());
  return v.ok() ? *std::move(v) : "";
}
const Json* JsonFields::Object(absl::string_view key) {
  const Json* v = Get(key);
  if (v != nullptr && !v->is_object()) {
    Contradiction(absl::StrCat("\"", key, "\" is no object"));
    return nullptr;
  }
  return v;
}

namespace {

// Fields that change what the model computes, with the one value besides null under which they do nothing.
struct NeutralField {
  const char* key;
  double neutral;  // a bool counts as 0 or 1
};
constexpr NeutralField kNeutralFields[] = {
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"partial_rotary_factor", 1},
    {"rotary_pct", 1},
    {"rope_interleaved", 0},
    {"num_experts", 0},
    {"num_local_experts", 0},
    {"n_routed_experts", 0},
    {"num_experts_per_tok", 0},
    {"use_bidirectional_attention", 0},
    {"logit_scale", 1},
    {"logits_scaling", 1},
    {"embedding_multiplier", 1},
    {"residual_multiplier", 1},
    {"attention_multiplier", 1},
    {"clip_qkv", 0},
    {"qk_layernorm", 0},
    {"use_qk_norm", 0},
    {"use_parallel_residual", 0},
    {"parallel_attn", 0},
    {"alibi", 0},
    {"attention_chunk_size", 0},
    {"no_rope_layer_interval", 0},
    {"is_encoder_decoder", 0},
};

void RefuseUnsupportedFields(JsonFields& f) {
  for (const NeutralField& field : kNeutralFields) {
    const Json* v = f.Get(field.key);
    if (v == nullptr) continue;
    const double value = v->is_bool() ? (v->bool_value() ? 1 : 0) : v->is_number() ? v->number_value() : NAN;
    if (value == field.neutral) continue;
    f.Unsupported(absl::StrCat("\"", field.key, "\" is ", v->Dump(), ", which is not supported; only ",
                               field.neutral, " or null is"));
  }
  const Json* no_rope = f.Get("no_rope_layers");
  if (no_rope == nullptr) return;
  for (const Json& v : no_rope->is_array() ? no_rope->array() : Json::Array{Json(0)}) {
    if (!v.is_int() || v.int_value() != 1) return f.Unsupported("\"no_rope_layers\" is not supported");
  }
}

GateActivation ActivationFromName(JsonFields& f, const char* key, const std::string& name) {
  if (name == "silu" || name == "swish") return GateActivation::kSilu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return GateActivation::kGeluTanh;  // one formula
  f.Unsupported(
      absl::StrCat("\"", key, "\" is \"", Printable(name), "\"; supported are silu and gelu_pytorch_tanh"));
  return GateActivation::kSilu;
}

void ReadTokenIds(JsonFields& f, ModelConfig* c) {
  c->bos_id = f.Int("bos_token_id", -1);
  const Json* eos = f.Get("eos_token_id");
  if (eos == nullptr) return;
  if (!eos->is_array()) {
    c->eos_id = f.Int("eos_token_id");
    return;
  }
  for (const Json& id : eos->array()) {
    if (!id.is_int()) return f.Contradiction("\"eos_token_id\" holds something that is no integer");
    (c->eos_id < 0 ? c->eos_id : c->eos_ids.emplace_back()) = id.int_value();
  }
}

}  // namespace

ModelConfig CommonFromJson(JsonFields& f, const char* family, const CommonDefaults& defaults) {
  ModelConfig c;
  RefuseUnsupportedFields(f);
  c.family = family;
  c.architecture = defaults.architecture;
  c.hidden = f.Int("hidden_size");
  c.intermediate = f.Int("intermediate_size");
  c.num_layers = f.Int("num_hidden_layers");
  c.num_heads = f.Int("num_attention_heads");
  c.num_kv_heads =
      f.Int("num_key_value_heads", defaults.num_kv_heads > 0 ? defaults.num_kv_heads : c.num_heads);
  c.vocab = f.Int("vocab_size");
  c.max_positions = f.Int("max_position_embeddings", 0);
  c.head_dim = f.Int("head_dim", defaults.head_dim);
  if (f.ok() && c.head_dim == 0) {
    if (c.num_heads < 1 || c.hidden % c.num_heads != 0) {
      f.Contradiction(absl::StrCat("num_attention_heads=", c.num_heads,
                                   " does not divide hidden_size=", c.hidden, " and there is no head_dim"));
    } else {
      c.head_dim = c.hidden / c.num_heads;
    }
  }
  c.norm_eps = static_cast<float>(f.Number("rms_norm_eps", 1e-6));
  c.activation =
      ActivationFromName(f, defaults.activation_key, f.Text(defaults.activation_key, defaults.activation));
  c.tied_embeddings = f.Bool("tie_word_embeddings", defaults.tied_embeddings);
  c.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));
  ReadTokenIds(f, &c);
  return c;
}

RopeConfig RopeFromObject(JsonFields& f, const Json* object, double theta, int64_t original_positions) {
  RopeConfig rope;
  rope.theta = theta;
  if (object != nullptr && !object->is_object()) {
    f.Contradiction("a rope description is no object");
    return rope;
  }
  if (object != nullptr) {
    JsonFields r(*object, absl::StrCat(f.where(), ": rope"));
    rope.theta = r.Number("rope_theta", theta);
    const std::string type = r.Text("rope_type", r.Text("type", "default"));
    if (type == "linear") {
      rope.scaling = RopeScaling::kLinear;
      rope.factor = r.Number("factor");
    } else if (type == "llama3") {
      rope.scaling = RopeScaling::kLlama3;
      rope.factor = r.Number("factor");
      rope.low_freq_factor = r.Number("low_freq_factor");
      rope.high_freq_factor = r.Number("high_freq_factor");
      rope.original_max_positions = original_positions > 0 ? original_positions
                                                           : r.Int("original_max_position_embeddings",
                                                                   f.Int("max_position_embeddings", 0));
      if (r.ok() && (rope.original_max_positions < 1 || !(rope.low_freq_factor > 0) ||
                     !(rope.high_freq_factor > rope.low_freq_factor))) {
        r.Contradiction("llama3 scaling needs 0 < low_freq_factor < high_freq_factor and positions");
      }
    } else if (type != "default") {
      r.Unsupported(
          absl::StrCat("rope type \"", Printable(type), "\"; supported are default, linear and llama3"));
    }
    if (const double part = r.Number("partial_rotary_factor", 1.0); part != 1.0) {
      r.Unsupported(absl::StrCat("partial_rotary_factor is ", part, "; only 1 is supported"));
    }
    if (r.ok() && !(rope.factor > 0))
      r.Contradiction(absl::StrCat("factor=", rope.factor, " is not positive"));
    f.Fail(r.status());
  }
  if (f.ok() && !(rope.theta > 0))
    f.Contradiction(absl::StrCat("rope_theta=", rope.theta, " is not positive"));
  return rope;
}

RopeConfig RopeFromJson(JsonFields& f) {
  const double theta = f.Number("rope_theta", 10000.0);
  const Json* object = f.Object("rope_scaling");  // wins over rope_parameters, as in transformers
  if (object == nullptr || object->object().empty()) object = f.Object("rope_parameters");
  return RopeFromObject(f, object, theta, f.Int("original_max_position_embeddings", 0));
}

std::vector<bool> SlidingFromLayerTypes(JsonFields& f, int64_t num_layers) {
  const Json* types = f.Get("layer_types");
  if (types == nullptr) return {};
  if (!types->is_array() || static_cast<int64_t>(types->array().size()) != num_layers) {
    f.Contradiction(absl::StrCat("\"layer_types\" is no list of ", num_layers, " layers"));
    return {};
  }
  std::vector<bool> slides;
  for (const Json& type : types->array()) {
    const std::string name = type.is_string() ? type.string_value() : type.Dump();
    if (name != "sliding_attention" && name != "full_attention") {
      f.Unsupported(absl::StrCat("layer type \"", Printable(name),
                                 "\"; supported are full_attention and sliding_attention"));
      return {};
    }
    slides.push_back(name == "sliding_attention");
  }
  return slides;
}

}  // namespace spikefold
