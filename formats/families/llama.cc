// Llama 1 to 3.x (dense), SmolLM2 and everything else that says LlamaForCausalLM. transformers: models/llama;
// llama.cpp: src/models/llama.cpp.
#include "formats/base/status.h"
#include "formats/families/families_list.h"
#include "formats/families/gguf_fields.h"
#include "formats/families/json_fields.h"

namespace spikefold {

absl::StatusOr<ModelConfig> LlamaFromJson(const Json& config) {
  JsonFields f(config, "config.json");
  ModelConfig c = CommonFromJson(f, "llama", {.architecture = "LlamaForCausalLM"});
  c.qkv_bias = c.o_bias = f.Bool("attention_bias", false);
  c.mlp_bias = f.Bool("mlp_bias", false);
  c.rope = RopeFromJson(f);
  // transformers' Llama has no window, so a file that asks for one means another model.
  const Json* window = f.Get("sliding_window");
  if (window != nullptr && !(window->is_bool() && !window->bool_value())) {
    f.Unsupported("\"sliding_window\" is not supported for LlamaForCausalLM; MistralForCausalLM has it");
  }
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

absl::StatusOr<ModelConfig> LlamaFromGguf(const GgufFile& file) {
  GgufFields f(file, "llama");
  ModelConfig c = CommonFromGguf(f, "llama", "LlamaForCausalLM");
  if (f.Int("attention.sliding_window", 0) != 0)
    f.Unsupported("llama.attention.sliding_window is not supported");
  // config.json has one switch for all four projections (attention_bias), so a model with only some of them
  // has no HF form.
  if (c.qkv_bias != c.o_bias) f.Unsupported("has biases on some of q, k, v and o only");
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

}  // namespace spikefold
