// One row per model family: how its config.json and its GGUF metadata turn into a ModelConfig, and what
// differs in GGUF storage.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/json.h"
#include "formats/model_config.h"

namespace spikefold {

class GgufFile;

struct Family {
  const char* name;                     // "llama"
  const char* hf_architecture;          // "LlamaForCausalLM"
  const char* gguf_architecture;        // "llama"; nullptr if GGUF files of it carry another family's name
  bool gguf_permutes_qk;                // GGUF stores q/k rows for adjacent rotary pairs
  bool gguf_norm_gain_includes_offset;  // GGUF stores gain + norm_gain_offset (Gemma)
  absl::StatusOr<ModelConfig> (*from_json)(const Json& config);
  absl::StatusOr<ModelConfig> (*from_gguf)(const GgufFile& file);
};

absl::Span<const Family> Families();
// Unimplemented, naming the architecture and the supported ones (with a did-you-mean).
absl::StatusOr<const Family*> FamilyOfArchitecture(absl::string_view hf_architecture);
absl::StatusOr<const Family*> FamilyOfGguf(absl::string_view gguf_architecture);
absl::StatusOr<const Family*> FamilyByName(absl::string_view name);

// config.json of either generation (transformers 4 and 5) -> ModelConfig.
absl::StatusOr<ModelConfig> ConfigFromJson(const Json& config);
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufFile& file);
// The config.json (transformers 4 spelling) of a model that came without one, i.e. from GGUF.
Json ConfigToJson(const ModelConfig& config);

}  // namespace spikefold
