// The nodes of tokenizer.json around the model: normalizer, pre_tokenizer, decoder. Node types that are not
// known are refused with their path.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/tokenizer/json_node.h"
#include "formats/tokenizer/pretokenizer.h"

namespace spikefold::tok {

class NormalizerStep {
 public:
  virtual ~NormalizerStep() = default;
  virtual absl::StatusOr<std::string> Apply(std::string text) const = 0;  // valid UTF-8 to valid UTF-8
};
using Normalizer = std::vector<std::unique_ptr<NormalizerStep>>;
absl::StatusOr<Normalizer> ParseNormalizer(const JsonNode& node);  // null: no steps

struct JsonPreTokenizer {
  PreTokenizer steps;
  bool byte_level = false;  // pieces are bytes, tokens are spelt in the byte alphabet
};
absl::StatusOr<JsonPreTokenizer> ParsePreTokenizer(const JsonNode& node);

struct DecodedToken {
  std::string text;
  bool is_added = false;  // an added token: its text is what it says
};
class DecoderStep {
 public:
  virtual ~DecoderStep() = default;
  virtual void Apply(std::vector<DecodedToken>* tokens) const = 0;
};
using Decoder = std::vector<std::unique_ptr<DecoderStep>>;
absl::StatusOr<Decoder> ParseDecoder(const JsonNode& node);

}  // namespace spikefold::tok
