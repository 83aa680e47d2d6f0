// Mistral (dense): Llama without biases, with a sliding window on every layer unless it is null.
// transformers: models/mistral. Its GGUF files carry the architecture "llama" and no window, as llama.cpp
// runs them.
#include "formats/base/status.h"
#include "formats/families/families_list.h"
#include "formats/families/json_fields.h"

namespace spikefold {

absl::StatusOr<ModelConfig> MistralFromJson(const Json& config) {
  JsonFields f(config, "config.json");
  ModelConfig c = CommonFromJson(f, "mistral", {.architecture = "MistralForCausalLM", .num_kv_heads = 8});
  c.rope = RopeFromJson(f);
  // An absent field means 4096 (MistralConfig's default), null means none.
  const Json* window = config.Find("sliding_window");
  const int64_t size = window == nullptr ? 4096 : f.Int("sliding_window", 0);
  const std::vector<bool> types = SlidingFromLayerTypes(f, c.num_layers);
  for (const bool slides : types) {
    if (slides != (size > 0))
      f.Unsupported("\"layer_types\" that differ from \"sliding_window\" are not supported");
  }
  SF_RETURN_IF_ERROR(f.status());
  if (window != nullptr && !window->is_null() && size < 1) {
    f.Contradiction("\"sliding_window\" is not positive; null means none");
  }
  if (size > 0 && c.num_layers > 0 && c.num_layers <= 1024) {
    c.sliding_window = size;
    c.rope_local = c.rope;
    c.sliding_layers.assign(static_cast<size_t>(c.num_layers), true);
  }
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

}  // namespace spikefold
