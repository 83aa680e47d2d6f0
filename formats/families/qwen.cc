// Qwen2, Qwen2.5 (q, k, v always biased) and Qwen3 (q and k normalised per head instead), dense.
// transformers: models/qwen2, models/qwen3; llama.cpp: src/models/qwen2.cpp, qwen3.cpp.
#include "formats/base/status.h"
#include "formats/families/families_list.h"
#include "formats/families/gguf_fields.h"
#include "formats/families/json_fields.h"

namespace spikefold {
namespace {

// Both configurations' __post_init__: without use_sliding_window, or with a null for it, the window is void;
// layer_types, or else the layers from max_window_layers on.
void ReadWindow(JsonFields& f, const Json& config, ModelConfig* c) {
  if (c->num_layers < 1 || c->num_layers > 1024) return;  // BuildGraph says so
  const int64_t absent = config.Find("sliding_window") == nullptr ? 4096 : 0;
  const int64_t window = f.Bool("use_sliding_window", false) ? f.Int("sliding_window", absent) : 0;
  std::vector<bool> slides = SlidingFromLayerTypes(f, c->num_layers);
  if (slides.empty() && window > 0) {
    const int64_t first = f.Int("max_window_layers", 28);
    for (int64_t i = 0; i < c->num_layers; ++i) slides.push_back(i >= first);
  }
  bool any = false;
  for (const bool s : slides) any = any || s;
  if (!any) return;
  c->sliding_window = window;  // 0 with sliding layers is a contradiction that BuildGraph reports
  c->rope_local = c->rope;
  c->sliding_layers = std::move(slides);
}

absl::StatusOr<ModelConfig> FromGguf(GgufFields& f, ModelConfig c) {
  if (f.Int("attention.sliding_window", 0) != 0)
    f.Unsupported("a sliding window in a Qwen GGUF is not supported");
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

}  // namespace

absl::StatusOr<ModelConfig> Qwen2FromJson(const Json& config) {
  JsonFields f(config, "config.json");
  ModelConfig c = CommonFromJson(f, "qwen2", {.architecture = "Qwen2ForCausalLM"});
  c.qkv_bias = true;
  c.rope = RopeFromJson(f);
  ReadWindow(f, config, &c);
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

absl::StatusOr<ModelConfig> Qwen2FromGguf(const GgufFile& file) {
  GgufFields f(file, "qwen2");
  ModelConfig c = CommonFromGguf(f, "qwen2", "Qwen2ForCausalLM");
  c.qkv_bias = true;
  return FromGguf(f, std::move(c));
}

absl::StatusOr<ModelConfig> Qwen3FromJson(const Json& config) {
  JsonFields f(config, "config.json");
  ModelConfig c = CommonFromJson(f, "qwen3", {.architecture = "Qwen3ForCausalLM", .head_dim = 128});
  c.qkv_bias = c.o_bias = f.Bool("attention_bias", false);
  c.qk_norm = true;
  c.rope = RopeFromJson(f);
  ReadWindow(f, config, &c);
  SF_RETURN_IF_ERROR(f.status());
  return c;
}

absl::StatusOr<ModelConfig> Qwen3FromGguf(const GgufFile& file) {
  GgufFields f(file, "qwen3");
  ModelConfig c = CommonFromGguf(f, "qwen3", "Qwen3ForCausalLM");
  c.qk_norm = true;
  return FromGguf(f, std::move(c));
}

}  // namespace spikefold
