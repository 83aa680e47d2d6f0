// The tokenizer that a GGUF file describes in its tokenizer.ggml.* keys, with llama.cpp's rules.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/tokenizer.h"

namespace spikefold::tok {

enum class TokenType : int8_t {  // tokenizer.ggml.token_type
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// tokenizer.ggml.*; what a file leaves out stays empty.
struct GgufVocab {
  std::string model;  // "gpt2": byte-level BPE with merges; "llama": SentencePiece-style with scores
  std::string pre;    // pre-tokenizer of "gpt2"
  std::vector<std::string> tokens;
  std::vector<float> scores;        // [tokens], for "llama"
  std::vector<int64_t> types;       // [tokens] or empty: all normal
  std::vector<std::string> merges;  // "left right", for "gpt2"
  std::optional<int64_t> bos_id, eos_id, unk_id;
  std::optional<bool> add_bos, add_space_prefix;
};

// DataLoss for contradictions, Unimplemented for models and pre-tokenizers that are not known.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeGgufTokenizer(GgufVocab vocab, absl::string_view where);

}  // namespace spikefold::tok
