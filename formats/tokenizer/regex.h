// Patterns of pre-tokenizers, run by PCRE2 so that they match what the reference engines match.
//
// The dialect is the one tokenizer.json files are written for (Oniguruma). Compile() admits the part of it
// that means the same under PCRE2 and refuses the rest (Unimplemented). `\s` is Unicode's White_Space: PCRE2
// alone would add U+180E. PCRE2 10.42 knows Unicode 14; letters and numbers assigned later are matched
// through a stand-in of the same length and class.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spikefold::tok {

// Letters and numbers assigned up to this version are known.
enum class UnicodeVersion : int {
  k15 = 15,  // 15.1: llama.cpp
  k16 = 16,  // the regex engine of the `tokenizers` library 0.23
  k17 = 17,  // its built-in character classes
};

class Regex {
 public:
  using Range = std::pair<size_t, size_t>;  // [begin, end) in bytes

  // `where` names the pattern's place in error texts. DataLoss for a malformed pattern.
  static absl::StatusOr<std::unique_ptr<Regex>> Compile(absl::string_view pattern, UnicodeVersion version,
                                                        absl::string_view where);
  ~Regex();

  // The scratch memory of one thread's matching.
  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    ~Matcher();
    // All matches from left to right, empty ones too. `text` is UTF-8, surrogates allowed. DataLoss when the
    // pattern backtracks beyond the match limit.
    absl::Status FindAll(absl::string_view text, std::vector<Range>* matches);

   private:
    struct State;
    const Regex& regex_;
    std::unique_ptr<State> state_;
  };

 private:
  struct Impl;
  explicit Regex(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// `text` as a pattern that matches it literally.
std::string QuoteRegex(absl::string_view text);

}  // namespace spikefold::tok
