// Cuts text into the pieces that BPE merges separately: a list of steps, each refining the pieces of the one
// before.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/tokenizer/regex.h"

namespace spikefold::tok {

struct Pieces {
  std::string text;
  std::vector<Regex::Range> ranges;  // adjacent or with removed text between them; never empty
  bool at_text_start = true;         // text begins where the whole input begins

  absl::string_view operator[](size_t i) const {
    return absl::string_view(text).substr(ranges[i].first, ranges[i].second - ranges[i].first);
  }
};

class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  virtual absl::Status Apply(Pieces* pieces) const = 0;
};
using PreTokenizer = std::vector<std::unique_ptr<PreTokenizerStep>>;

// `text` as one piece, refined by every step.
absl::StatusOr<Pieces> PreTokenize(const PreTokenizer& steps, std::string text, bool at_text_start);

// What happens to a match ("delimiter") of a splitting pattern; names of the `tokenizers` library.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Cuts at the matches of `regex`; with `invert` the text between matches counts as the delimiter.
std::unique_ptr<PreTokenizerStep> MakeRegexSplit(std::unique_ptr<Regex> regex, SplitBehavior behavior,
                                                 bool invert);
// Puts a space in front of every piece that does not begin with one.
std::unique_ptr<PreTokenizerStep> MakePrefixSpace();

enum class PrependScheme { kNever, kFirst, kAlways };
// Space -> `replacement` ("▁"), one more in front where the scheme says so, then (split) a cut before each.
absl::StatusOr<std::unique_ptr<PreTokenizerStep>> MakeMetaspace(const std::string& replacement,
                                                                PrependScheme scheme, bool split,
                                                                absl::string_view where);

// GPT-2's pattern, the one of the ByteLevel node.
extern const char kGpt2Pattern[];
// The steps of llama.cpp's `tokenizer.ggml.pre` names: gpt-2, smollm, llama-bpe, qwen2 and their aliases.
// Unimplemented for any other name.
absl::StatusOr<PreTokenizer> PreTokenizerForGguf(absl::string_view pre, absl::string_view where);

}  // namespace spikefold::tok
