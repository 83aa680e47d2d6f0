#include "formats/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

#include "formats/base/status.h"
#include "formats/base/utf8.h"
#include "formats/tokenizer/unicode_additions.h"

namespace spikefold::tok {
namespace {

bool IsWhiteSpace(char32_t c) {  // Unicode's White_Space
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// \w of UTS 18: Alphabetic, marks, decimal digits, connector punctuation, join controls.
bool IsWordCharacter(char32_t c) {
  if (c == 0x200C || c == 0x200D) return true;
  // Alphabetic symbols: circled, squared and negative letters.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
      (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_CN:  // to utf8proc's Unicode 15; what came later are letters and decimal digits
      return !StandInFor(c, 16).empty();
    default:
      return false;
  }
}

size_t LastCharBegin(absl::string_view text) {
  size_t pos = text.size() - 1;
  while (pos > 0 && (static_cast<uint8_t>(text[pos]) & 0xC0) == 0x80) --pos;
  return pos;
}
bool EndsWithWord(absl::string_view text) {
  return !text.empty() && IsWordCharacter(NextUtf8(text.substr(LastCharBegin(text))).code);
}
bool StartsWithWord(absl::string_view text) { return !text.empty() && IsWordCharacter(NextUtf8(text).code); }

// Where the white space at the end of text[0..end) begins, not before `limit`.
size_t TrailingSpaceBegin(absl::string_view text, size_t limit, size_t end) {
  while (end > limit) {
    const size_t begin = LastCharBegin(text.substr(0, end));
    if (!IsWhiteSpace(NextUtf8(text.substr(begin)).code)) break;
    end = begin;
  }
  return std::max(end, limit);
}
size_t LeadingSpaceEnd(absl::string_view text, size_t pos) {
  while (pos < text.size()) {
    const Utf8Char c = NextUtf8(text.substr(pos));
    if (!IsWhiteSpace(c.code)) break;
    pos += c.bytes;
  }
  return pos;
}

}  // namespace

absl::Status AddedTokens::Init(std::vector<AddedToken> tokens, const Normalizer& normalizer) {
  tokens_ = std::move(tokens);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    std::string content = tokens_[i].content;
    if (!tokens_[i].normalized) {
      raw_.Add(std::move(content), static_cast<int32_t>(i));
      continue;
    }
    for (const auto& step : normalizer) {
      SF_ASSIGN_OR_RETURN(content, step->Apply(std::move(content)));
    }
    normalized_.Add(std::move(content), static_cast<int32_t>(i));
  }
  raw_.Build();
  normalized_.Build();
  return absl::OkStatus();
}

std::vector<LiteralMatcher::Fragment> AddedTokens::Split(absl::string_view text, bool normalized,
                                                         bool parse_special) const {
  std::vector<LiteralMatcher::Fragment> fragments;
  size_t pos = 0;
  for (auto match : (normalized ? normalized_ : raw_).MatchLeftmostLongest(text)) {
    const AddedToken& token = tokens_[match.value];
    if (token.special && !parse_special) continue;
    if (token.single_word &&
        (EndsWithWord(text.substr(0, match.begin)) || StartsWithWord(text.substr(match.end)))) {
      continue;
    }
    if (token.lstrip) match.begin = TrailingSpaceBegin(text, pos, match.begin);
    if (token.rstrip) match.end = LeadingSpaceEnd(text, match.end);
    if (pos < match.begin) fragments.push_back({pos, match.begin, -1});
    fragments.push_back({match.begin, match.end, token.id});
    pos = match.end;
  }
  if (pos < text.size()) fragments.push_back({pos, text.size(), -1});
  return fragments;
}

}  // namespace spikefold::tok
