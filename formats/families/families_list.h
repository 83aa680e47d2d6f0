// What each family file defines; families.cc lists them.
#pragma once

#include "absl/status/statusor.h"
#include "formats/base/json.h"
#include "formats/gguf.h"
#include "formats/model_config.h"

namespace spikefold {

absl::StatusOr<ModelConfig> LlamaFromJson(const Json& config);
absl::StatusOr<ModelConfig> LlamaFromGguf(const GgufFile& file);
absl::StatusOr<ModelConfig> MistralFromJson(const Json& config);
absl::StatusOr<ModelConfig> Qwen2FromJson(const Json& config);
absl::StatusOr<ModelConfig> Qwen2FromGguf(const GgufFile& file);
absl::StatusOr<ModelConfig> Qwen3FromJson(const Json& config);
absl::StatusOr<ModelConfig> Qwen3FromGguf(const GgufFile& file);
absl::StatusOr<ModelConfig> Gemma3FromJson(const Json& config);
absl::StatusOr<ModelConfig> Gemma3FromGguf(const GgufFile& file);

}  // namespace spikefold
