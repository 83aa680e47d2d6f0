#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"
#include "formats/families/families_list.h"
#include "formats/families/family.h"

namespace spikefold {
namespace {

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", "llama", true, false, LlamaFromJson, LlamaFromGguf},
    {"mistral", "MistralForCausalLM", nullptr, true, false, MistralFromJson, nullptr},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", false, false, Qwen2FromJson, Qwen2FromGguf},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", false, false, Qwen3FromJson, Qwen3FromGguf},
    {"gemma3", "Gemma3ForCausalLM", "gemma3", false, true, Gemma3FromJson, Gemma3FromGguf},
};

absl::StatusOr<const Family*> FindFamily(absl::string_view name, const char* Family::*field,
                                         const char* what) {
  std::vector<std::string> known;
  for (const Family& family : kFamilies) {
    if (family.*field == nullptr) continue;
    if (name == family.*field) return &family;
    known.emplace_back(family.*field);
  }
  std::string list;
  for (const std::string& k : known) absl::StrAppend(&list, list.empty() ? "" : ", ", k);
  return absl::UnimplementedError(absl::StrCat(what, " \"", Printable(name), "\" is not supported",
                                               DidYouMean(name, known), "; supported are ", list));
}

}  // namespace

absl::Span<const Family> Families() { return kFamilies; }
absl::StatusOr<const Family*> FamilyOfArchitecture(absl::string_view hf_architecture) {
  return FindFamily(hf_architecture, &Family::hf_architecture, "architecture");
}
absl::StatusOr<const Family*> FamilyOfGguf(absl::string_view gguf_architecture) {
  return FindFamily(gguf_architecture, &Family::gguf_architecture, "GGUF architecture");
}
absl::StatusOr<const Family*> FamilyByName(absl::string_view name) {
  return FindFamily(name, &Family::name, "model family");
}

absl::StatusOr<ModelConfig> ConfigFromJson(const Json& config) {
  if (!config.is_object()) return absl::DataLossError("config.json: is no object");
  std::string architecture;
  if (const Json* list = config.Find("architectures"); list != nullptr && list->is_array()) {
    if (list->array().size() != 1 || !list->array()[0].is_string()) {
      return absl::DataLossError("config.json: \"architectures\" must hold exactly one name");
    }
    architecture = list->array()[0].string_value();
  } else {
    // Some files name only the model type; that of Gemma 3's text model is "gemma3_text".
    SF_ASSIGN_OR_RETURN(std::string type, config.GetString("model_type", "config.json"));
    if (type == "gemma3_text") type = "gemma3";
    SF_ASSIGN_OR_RETURN(const Family* family, FamilyByName(type));
    architecture = family->hf_architecture;
  }
  absl::StatusOr<const Family*> family = FamilyOfArchitecture(architecture);
  if (!family.ok()) return absl::UnimplementedError(absl::StrCat("config.json: ", family.status().message()));
  return (*family)->from_json(config);
}

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file) {
  SF_ASSIGN_OR_RETURN(const std::string architecture, file.GetString("general.architecture"));
  absl::StatusOr<const Family*> family = FamilyOfGguf(architecture);
  if (!family.ok()) {
    return absl::UnimplementedError(absl::StrCat(file.name(), ": ", family.status().message()));
  }
  return (*family)->from_gguf(file);
}

namespace {

// The shortest decimal that is the same float32: 1e-05 rather than 9.999999747378752e-06.
double Shortest(float value) {
  for (int digits = 1; digits < 9; ++digits) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.*e", digits - 1, static_cast<double>(value));
    const double d = std::strtod(text, nullptr);
    if (static_cast<float>(d) == value) return d;
  }
  return static_cast<double>(value);
}

Json RopeScalingToJson(const RopeConfig& rope) {
  Json json;
  if (rope.scaling == RopeScaling::kLinear) json.Set("rope_type", "linear").Set("factor", rope.factor);
  if (rope.scaling == RopeScaling::kLlama3) {
    json.Set("rope_type", "llama3").Set("factor", rope.factor);
    json.Set("low_freq_factor", rope.low_freq_factor).Set("high_freq_factor", rope.high_freq_factor);
    json.Set("original_max_position_embeddings", rope.original_max_positions);
  }
  return json;
}

void SetTokenIds(const ModelConfig& c, Json* json) {
  json->Set("bos_token_id", c.bos_id < 0 ? Json() : Json(c.bos_id));
  if (c.eos_ids.empty()) {
    json->Set("eos_token_id", c.eos_id < 0 ? Json() : Json(c.eos_id));
    return;
  }
  Json ids = Json::MakeArray();
  ids.Append(c.eos_id);
  for (const int64_t id : c.eos_ids) ids.Append(id);
  json->Set("eos_token_id", std::move(ids));
}

// The fields that only one family has.
void SetFamilyFields(const ModelConfig& c, Json* json) {
  Json layer_types = Json::MakeArray();
  bool any_slides = false;
  for (const bool slides : c.sliding_layers) {
    layer_types.Append(slides ? "sliding_attention" : "full_attention");
    any_slides = any_slides || slides;
  }
  if (c.family == "llama") json->Set("attention_bias", c.qkv_bias).Set("mlp_bias", c.mlp_bias);
  if (c.family == "mistral")
    json->Set("sliding_window", c.sliding_window > 0 ? Json(c.sliding_window) : Json());
  if (c.family == "qwen2" || c.family == "qwen3") {
    json->Set("use_sliding_window", any_slides);
    if (any_slides) json->Set("sliding_window", c.sliding_window).Set("layer_types", std::move(layer_types));
  } else if (c.family == "gemma3") {
    json->Set("rope_local_base_freq", c.rope_local.theta);
    const double scalar =
        1.0 / (static_cast<double>(c.attention_scale) * static_cast<double>(c.attention_scale));
    const bool whole = static_cast<float>(1.0 / std::sqrt(std::round(scalar))) == c.attention_scale;
    json->Set("query_pre_attn_scalar",
              whole ? Json(static_cast<int64_t>(std::llround(scalar))) : Json(scalar));
    json->Set("sliding_window", c.sliding_window > 0 ? c.sliding_window : int64_t{4096});
    if (c.sliding_layers.empty()) {
      for (int64_t i = 0; i < c.num_layers; ++i) layer_types.Append("full_attention");
    }
    json->Set("layer_types", std::move(layer_types));
  }
  if (c.family == "qwen3" || c.family == "gemma3") json->Set("attention_bias", c.qkv_bias);
}

}  // namespace

Json ConfigToJson(const ModelConfig& c) {
  Json json = Json::MakeObject();
  Json architectures = Json::MakeArray();
  architectures.Append(c.architecture);
  json.Set("architectures", std::move(architectures));
  json.Set("model_type", c.family == "gemma3" ? "gemma3_text" : c.family);
  json.Set("vocab_size", c.vocab).Set("hidden_size", c.hidden).Set("intermediate_size", c.intermediate);
  json.Set("num_hidden_layers", c.num_layers).Set("num_attention_heads", c.num_heads);
  json.Set("num_key_value_heads", c.num_kv_heads).Set("head_dim", c.head_dim);
  json.Set(c.family == "gemma3" ? "hidden_activation" : "hidden_act",
           c.activation == GateActivation::kSilu ? "silu" : "gelu_pytorch_tanh");
  if (c.max_positions > 0) json.Set("max_position_embeddings", c.max_positions);
  json.Set("rms_norm_eps", Shortest(c.norm_eps)).Set("rope_theta", c.rope.theta);
  json.Set("rope_scaling", RopeScalingToJson(c.rope)).Set("tie_word_embeddings", c.tied_embeddings);
  SetTokenIds(c, &json);
  SetFamilyFields(c, &json);
  json.Set("torch_dtype", "float32");
  return json;
}

}  // namespace spikefold
