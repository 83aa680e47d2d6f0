// SentencePiece-style BPE as llama.cpp runs it on GGUF vocabularies: neighbouring symbols whose joint text is
// a token merge, the highest score first, the leftmost on ties; what is no token in the end becomes byte
// tokens.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "formats/tokenizer/bpe.h"

namespace spikefold::tok {

class SpmModel {
 public:
  // tokens and scores: [vocab]; byte_ids: the token of each byte.
  void Init(const std::vector<std::string>& tokens, const std::vector<float>& scores,
            const std::array<int32_t, 256>& byte_ids);

  // Appends the ids of `text` (spaces already escaped). Any bytes.
  void Encode(absl::string_view text, PieceCache* cache, std::vector<int32_t>* out) const;

 private:
  struct Token {
    int32_t id;
    float score;
  };
  void EncodeSegment(absl::string_view text, std::vector<int32_t>* out) const;
  const Token* Find(absl::string_view text) const;

  absl::flat_hash_map<std::string, Token> index_;
  std::array<int32_t, 256> byte_ids_{};
  size_t max_token_bytes_ = 0;
  // Neighbouring characters that occur inside some token. No merge crosses any other pair, so text is cut
  // there into independent segments: same ids, short heaps, repeated words looked up.
  absl::flat_hash_set<uint64_t> inner_pairs_;
};

}  // namespace spikefold::tok
