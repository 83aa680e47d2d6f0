// spikefold generate MODEL -p PROMPT: continues a text.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/kv_flags.h"

namespace spikefold {

struct GenerateCommandOptions {
  std::string backend = "cpu";
  std::string model, prompt;
  int64_t max_tokens = 128;
  double temperature = 0;
  KvFlags kv;
  int64_t top_k = 0;
};
absl::Status RunGenerate(const GenerateCommandOptions& options, Context& context);

}  // namespace spikefold
