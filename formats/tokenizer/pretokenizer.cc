#include "formats/tokenizer/pretokenizer.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/base/status.h"

namespace spikefold::tok {
namespace {

using Range = Regex::Range;

struct Segment {
  size_t begin, end;
  bool is_delimiter;
};

// The text cut at `matches`, without holes: delimiters and what lies between them.
std::vector<Segment> Segments(size_t size, const std::vector<Range>& matches, bool invert) {
  std::vector<Segment> segments;
  size_t pos = 0;
  for (const auto& [begin, end] : matches) {
    if (pos < begin) segments.push_back({pos, begin, invert});
    segments.push_back({begin, end, !invert});
    pos = end;
  }
  if (pos < size) segments.push_back({pos, size, invert});
  return segments;
}

// Applies `behavior` to segments that lie at `offset`; appends non-empty ranges. Empty ones (of a pattern
// that matches nothing) stand between their neighbours until all is joined, as in the library.
void Split(const std::vector<Segment>& segments, SplitBehavior behavior, size_t offset,
           std::vector<Range>* out) {
  const size_t first = out->size();
  bool previous_delimiter = false;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    const Range range{offset + s.begin, offset + s.end};
    bool join = false;  // with the range before
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (s.is_delimiter) continue;
        break;
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kMergedWithPrevious:
        join = s.is_delimiter && !previous_delimiter;
        break;
      case SplitBehavior::kMergedWithNext:
        join = !s.is_delimiter && previous_delimiter;
        break;
      case SplitBehavior::kContiguous:
        join = i > 0 && s.is_delimiter == previous_delimiter;
        break;
    }
    previous_delimiter = s.is_delimiter;
    if (join && out->size() > first && out->back().second == range.first) {
      out->back().second = range.second;
    } else {
      out->push_back(range);
    }
  }
  const auto is_empty = [](const Range& r) { return r.first == r.second; };
  out->erase(std::remove_if(out->begin() + static_cast<std::ptrdiff_t>(first), out->end(), is_empty),
             out->end());
}

class RegexSplit : public PreTokenizerStep {
 public:
  RegexSplit(std::unique_ptr<Regex> regex, SplitBehavior behavior, bool invert)
      : regex_(std::move(regex)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(Pieces* pieces) const override {
    std::vector<Range> ranges, matches;
    Regex::Matcher matcher(*regex_);
    for (size_t i = 0; i < pieces->ranges.size(); ++i) {
      const absl::string_view piece = (*pieces)[i];
      SF_RETURN_IF_ERROR(matcher.FindAll(piece, &matches));
      if (behavior_ == SplitBehavior::kIsolated && matches.empty()) {
        ranges.push_back(pieces->ranges[i]);
        continue;
      }
      Split(Segments(piece.size(), matches, invert_), behavior_, pieces->ranges[i].first, &ranges);
    }
    pieces->ranges = std::move(ranges);
    return absl::OkStatus();
  }

 private:
  std::unique_ptr<Regex> regex_;
  SplitBehavior behavior_;
  bool invert_;
};

// Rewrites every piece with `edit(piece, is_first)`.
template <typename Edit>
void Rewrite(Pieces* pieces, const Edit& edit) {
  Pieces out;
  out.at_text_start = pieces->at_text_start;
  out.text.reserve(pieces->text.size() + pieces->ranges.size());
  for (size_t i = 0; i < pieces->ranges.size(); ++i) {
    const size_t begin = out.text.size();
    const bool is_first = pieces->at_text_start && pieces->ranges[i].first == 0;
    edit((*pieces)[i], is_first, &out.text);
    out.ranges.emplace_back(begin, out.text.size());
  }
  *pieces = std::move(out);
}

class PrefixSpace : public PreTokenizerStep {
 public:
  absl::Status Apply(Pieces* pieces) const override {
    Rewrite(pieces, [](absl::string_view piece, bool, std::string* out) {
      absl::StrAppend(out, absl::StartsWith(piece, " ") ? "" : " ", piece);
    });
    return absl::OkStatus();
  }
};

class Metaspace : public PreTokenizerStep {
 public:
  Metaspace(std::string replacement, PrependScheme scheme, std::unique_ptr<PreTokenizerStep> split)
      : replacement_(std::move(replacement)), scheme_(scheme), split_(std::move(split)) {}

  absl::Status Apply(Pieces* pieces) const override {
    Rewrite(pieces, [&](absl::string_view piece, bool is_first, std::string* out) {
      const bool wanted = scheme_ == PrependScheme::kAlways || (scheme_ == PrependScheme::kFirst && is_first);
      const std::string replaced = absl::StrReplaceAll(piece, {{" ", replacement_}});
      absl::StrAppend(out, wanted && !absl::StartsWith(replaced, replacement_) ? replacement_ : "", replaced);
    });
    return split_ == nullptr ? absl::OkStatus() : split_->Apply(pieces);
  }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  std::unique_ptr<PreTokenizerStep> split_;
};

constexpr char kLlama3Pattern[] =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2Pattern[] =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct GgufPre {
  const char* name;
  std::vector<const char*> patterns;  // cut at the matches of each in turn
};

const std::vector<GgufPre>& GgufPres() {
  static const auto* pres = new std::vector<GgufPre>{
      {"gpt-2", {kGpt2Pattern}},
      {"smollm", {R"(\p{N})", kGpt2Pattern}},
      {"llama-bpe", {kLlama3Pattern}},
      {"llama3", {kLlama3Pattern}},
      {"llama-v3", {kLlama3Pattern}},
      {"qwen2", {kQwen2Pattern}},
      {"deepseek-r1-qwen", {kQwen2Pattern}},
  };
  return *pres;
}

}  // namespace

const char kGpt2Pattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

absl::StatusOr<Pieces> PreTokenize(const PreTokenizer& steps, std::string text, bool at_text_start) {
  Pieces pieces;
  pieces.text = std::move(text);
  pieces.at_text_start = at_text_start;
  if (!pieces.text.empty()) pieces.ranges.emplace_back(0, pieces.text.size());
  for (const auto& step : steps) SF_RETURN_IF_ERROR(step->Apply(&pieces));
  return pieces;
}

std::unique_ptr<PreTokenizerStep> MakeRegexSplit(std::unique_ptr<Regex> regex, SplitBehavior behavior,
                                                 bool invert) {
  return std::make_unique<RegexSplit>(std::move(regex), behavior, invert);
}

std::unique_ptr<PreTokenizerStep> MakePrefixSpace() { return std::make_unique<PrefixSpace>(); }

absl::StatusOr<std::unique_ptr<PreTokenizerStep>> MakeMetaspace(const std::string& replacement,
                                                                PrependScheme scheme, bool split,
                                                                absl::string_view where) {
  std::unique_ptr<PreTokenizerStep> splitter;
  if (split) {
    SF_ASSIGN_OR_RETURN(auto regex, Regex::Compile(QuoteRegex(replacement), UnicodeVersion::k16, where));
    splitter = MakeRegexSplit(std::move(regex), SplitBehavior::kMergedWithNext, /*invert=*/false);
  }
  return std::make_unique<Metaspace>(replacement, scheme, std::move(splitter));
}

absl::StatusOr<PreTokenizer> PreTokenizerForGguf(absl::string_view pre, absl::string_view where) {
  for (const GgufPre& known : GgufPres()) {
    if (pre != known.name) continue;
    PreTokenizer steps;
    for (const char* pattern : known.patterns) {
      SF_ASSIGN_OR_RETURN(auto regex, Regex::Compile(pattern, UnicodeVersion::k15, where));
      steps.push_back(MakeRegexSplit(std::move(regex), SplitBehavior::kIsolated, /*invert=*/false));
    }
    return steps;
  }
  return absl::UnimplementedError(absl::StrCat(
      where, ": pre-tokenizer \"", pre, "\" is not supported; supported: gpt-2, smollm, llama-bpe, qwen2"));
}

}  // namespace spikefold::tok
