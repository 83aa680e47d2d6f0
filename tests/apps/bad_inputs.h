// Models, tokenizers and files that are broken in a known way, and what the tool must say about each.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/apps/apps_kit.h"

namespace spikefold::testing {

struct BadInput {
  const char* what;
  std::function<void(const Workplace&)> spoil;  // breaks w.model, or writes w / "model.gguf"
  int exit;
  std::string message;  // all of the line behind "spikefold quantize: "; "$W" is the workplace
};

// Quantizes w.model, or w / "model.gguf" where `spoil` made one, in 1 GiB of address space, and checks the
// exit code, the one line on stderr, that stdout stays empty, and that nothing is left behind.
void CheckBadInput(const BadInput& input);
void CheckBadInputs(const std::vector<BadInput>& inputs);

// u64 length, header, `data_bytes` bytes of 1.
std::string SafetensorsBytes(const std::string& header, size_t data_bytes);
std::string SafetensorsBytes(uint64_t claimed_length, const std::string& header, size_t data_bytes);
// Replaces `from`, which stands there once, in a file.
void ReplaceInFile(const std::string& path, const std::string& from, const std::string& to);
// One value of the model's config.json, as JSON text.
std::function<void(const Workplace&)> WithConfig(const std::string& key, const std::string& json);

}  // namespace spikefold::testing
