// The "model" and "added_tokens" members of tokenizer.json: vocabulary, merges, added tokens.
#pragma once

#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/tokenizer/added_tokens.h"
#include "formats/tokenizer/bpe.h"
#include "formats/tokenizer/json_node.h"

namespace spikefold::tok {

struct JsonVocabulary {
  std::vector<std::string> tokens;                  // [largest id + 1]; empty: no such id
  std::vector<std::string> model_tokens;            // the same without tokens that are only added
  absl::flat_hash_map<std::string, int32_t> index;  // text -> id
  std::vector<BpeModel::Merge> merges;              // by rank
  std::vector<AddedToken> added;
  BpeModel::Options options;  // all but byte_level
};

// DataLoss for contradictory ids or malformed merges; Unimplemented for models other than BPE, dropout,
// subword prefixes and word suffixes.
absl::StatusOr<JsonVocabulary> ParseVocabulary(const JsonNode& root);

}  // namespace spikefold::tok
