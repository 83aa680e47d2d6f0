// Text <-> token ids, from tokenizer.json or from GGUF metadata. Unknown parts are refused with their place,
// never guessed.
//
//   SF_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromGguf(*file));
//   SF_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(text));   // no BOS/EOS added, special
//   tokens parsed only if asked
//
// Byte-level BPE (GGUF pre-tokenizers gpt-2, smollm, llama-bpe, qwen2; or what tokenizer.json says) and
// SentencePiece-style BPE with byte fallback. Ids are those of llama.cpp for GGUF files and of the
// `tokenizers` library for tokenizer.json. Any byte sequence encodes: invalid UTF-8 becomes U+FFFD as these
// two read it, but scored GGUF vocabularies keep the bytes. Bytes without a token and without a fallback
// vanish, as there. Encoding and decoding are thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/json.h"

namespace spikefold {

class GgufFile;

struct EncodeOptions {
  bool parse_special = false;  // "<|im_start|>" in the text becomes the special token
};

class Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromGguf(const GgufFile& file);
  // `config` is tokenizer_config.json or null (add_bos_token, bos_token ...). `model_bos`: what config.json
  // says, taken where neither file names a BOS token; -1: nothing.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromTokenizerJson(const Json& tokenizer,
                                                                      const Json& config,
                                                                      absl::string_view where,
                                                                      int64_t model_bos = -1);
  virtual ~Tokenizer() = default;

  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                                      const EncodeOptions& options = {}) const = 0;
  // Bytes; may end inside a UTF-8 sequence when the ids do.
  virtual std::string Decode(absl::Span<const int32_t> ids, bool skip_special = false) const = 0;
  virtual int64_t vocab_size() const = 0;
  virtual std::string TokenText(int32_t id) const = 0;  // readable form of one token
  virtual int32_t bos_id() const = 0;                   // -1: none
  virtual int32_t eos_id() const = 0;                   // -1: none
  virtual bool add_bos() const = 0;                     // the model wants BOS before text
  virtual bool is_special(int32_t id) const = 0;
  // SHA-256 over vocabulary, merges and rules: equal tokenizers have equal fingerprints.
  virtual std::string fingerprint() const = 0;
};

}  // namespace spikefold
