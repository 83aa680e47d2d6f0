// The added_tokens of tokenizer.json: strings that are found in the text before (or, if `normalized`, after)
// it is normalized, with the rules of the `tokenizers` library.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "formats/tokenizer/json_pipeline.h"
#include "formats/tokenizer/literal_matcher.h"

namespace spikefold::tok {

struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool single_word = false;  // not inside a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // is looked for in normalized text, in normalized form
  bool special = false;
};

class AddedTokens {
 public:
  absl::Status Init(std::vector<AddedToken> tokens, const Normalizer& normalizer);

  // The text cut at the added tokens; `value` of a fragment is the id or -1. Special tokens count only with
  // parse_special.
  std::vector<LiteralMatcher::Fragment> Split(absl::string_view text, bool normalized,
                                              bool parse_special) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  std::vector<AddedToken> tokens_;
  LiteralMatcher raw_, normalized_;  // values: index in tokens_
};

}  // namespace spikefold::tok
