// Gemma 3, text only. transformers: models/gemma3; llama.cpp: src/models/gemma3.cpp.
//
// The embedding is multiplied by sqrt(hidden). transformers casts that factor to the weights' type (25.25
// instead of 25.298 for hidden=640 in bfloat16, unrounded in float32), llama.cpp multiplies by the float32
// root. Spikefold computes in float32 and follows both in float32: not rounded.
#include <cmath>

#include "formats/base/status.h"
#include "formats/families/families_list.h"
#include "formats/families/gguf_fields.h"
#include "formats/families/json_fields.h"

namespace spikefold {
namespace {

constexpr int64_t kPattern = 6;  // five sliding layers, then a global one

void SetFamilyTraits(ModelConfig* c) {
  c->activation = GateActivation::kGeluTanh;
  c->qk_norm = true;
  c->sandwich_norm = true;
  c->norm_gain_offset = 1.0f;
  c->embedding_scale = std::sqrt(static_cast<float>(c->hidden));
}

std::vector<bool> EveryNthGlobal(int64_t num_layers, int64_t n) {
  std::vector<bool> slides;
  for (int64_t i = 0; i < num_layers; ++i) slides.push_back(n == 0 || (i + 1) % n != 0);
  return slides;
}

// transformers 4: rope_theta (global), rope_local_base_freq, rope_scaling (global layers only).
// transformers 5: rope_parameters {full_attention, sliding_attention}; members of a rope_scaling beside them
// are put in place of those of full_attention.
void ReadRope(JsonFields& f, ModelConfig* c) {
  const double global = f.Number("rope_theta", 1e6), local = f.Number("rope_local_base_freq", 1e4);
  const Json* both = f.Object("rope_parameters");
  const Json* full = nullptr;
  const Json* sliding = nullptr;
  if (both != nullptr) {
    const auto part = [&](const char* name) {
      const Json* v = both->Find(name);
      if (v == nullptr)
        f.Contradiction("\"rope_parameters\" of Gemma 3 needs full_attention and sliding_attention");
      return v == nullptr || v->is_null() ? nullptr : v;
    };
    full = part("full_attention");
    sliding = part("sliding_attention");
  }
  Json merged;
  if (const Json* scaling = f.Object("rope_scaling")) {
    merged = full != nullptr && full->is_object() ? *full : Json::MakeObject();
    for (const auto& [key, value] : scaling->object()) merged.Set(key, value);
    full = &merged;
  }
  c->rope = RopeFromObject(f, full, global);
  c->rope_local = RopeFromObject(f, sliding, local);
}

}  // namespace

absl::StatusOr<ModelConfig> Gemma3FromJson(const Json& config) {
  JsonFields f(config, "config.json");
  ModelConfig c = CommonFromJson(f, "gemma3",
                                 {.architecture = "Gemma3ForCausalLM",
                                  .tied_embeddings = true,
                                  .num_kv_heads = 4,
                                  .head_dim = 256,
                                  .activation_key = "hidden_activation",
                                  .activation = "gelu_pytorch_tanh"});
  if (f.ok() && c.activation != GateActivation::kGeluTanh) {
    f.Unsupported("\"hidden_activation\" of Gemma 3 must be gelu_pytorch_tanh");
  }
  SetFamilyTraits(&c);
  c.qkv_bias = c.o_bias = f.Bool("attention_bias", false);
  const double scalar = f.Number("query_pre_attn_scalar", 256);
  if (f.ok() && !(scalar > 0)) f.Contradiction("\"query_pre_attn_scalar\" is not positive");
  c.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  ReadRope(f, &c);
  SF_RETURN_IF_ERROR(f.status());
  if (c.num_layers < 1 || c.num_layers > 1024) return c;  // BuildGraph says so
  c.sliding_layers = SlidingFromLayerTypes(f, c.num_layers);
  if (c.sliding_layers.empty()) {
    // transformers 5 keeps the number under an underscore but always writes layer_types beside it.
    const int64_t pattern = f.Int("sliding_window_pattern", kPattern);
    if (pattern < 1) f.Contradiction("\"sliding_window_pattern\" is not positive");
    if (pattern >= 1) c.sliding_layers = EveryNthGlobal(c.num_layers, pattern);
  }
  c.sliding_window = f.Int("sliding_window", 4096);
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

absl::StatusOr<ModelConfig> Gemma3FromGguf(const GgufFile& file) {
  GgufFields f(file, "gemma3");
  ModelConfig c = CommonFromGguf(f, "gemma3", "Gemma3ForCausalLM");
  SetFamilyTraits(&c);
  if (f.Get("rope.freq_base") == nullptr) c.rope.theta = 1e6;
  // llama.cpp: only the 27B model (62 layers) scales by hidden / heads instead of head_dim.
  if (c.num_layers == 62 && c.num_heads > 0) {
    c.attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.hidden / c.num_heads)));
  }
  SF_RETURN_IF_ERROR(f.status());
  c.sliding_window = f.Int("attention.sliding_window", 0);
  if (c.sliding_window == 0 || c.num_layers < 1 || c.num_layers > 1024) return c;
  c.rope_local.theta = f.Number("rope.freq_base_swa", 1e4);
  const GgufValue* pattern = f.Get("attention.sliding_window_pattern");
  if (pattern != nullptr && std::holds_alternative<std::vector<bool>>(pattern->v)) {
    c.sliding_layers = std::get<std::vector<bool>>(pattern->v);
  } else {
    c.sliding_layers = EveryNthGlobal(c.num_layers, f.Int("attention.sliding_window_pattern", kPattern));
  }
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

}  // namespace spikefold
