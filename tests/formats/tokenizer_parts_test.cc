#include "formats/tokenizer/literal_matcher.h"
#include "formats/tokenizer/pretokenizer.h"
#include "formats/tokenizer/utf8.h"
#include "tests/formats/tokenizer_fixtures.h"

namespace spikefold {
namespace {

std::vector<std::string> PiecesOf(const tok::PreTokenizer& steps, const std::string& text) {
  const tok::Pieces pieces = Value(tok::PreTokenize(steps, text, /*at_text_start=*/true));
  std::vector<std::string> out;
  for (size_t i = 0; i < pieces.ranges.size(); ++i) out.emplace_back(pieces[i]);
  return out;
}
using Texts = std::vector<std::string>;

}  // namespace

TEST_CASE("Pre-tokenizers cut the same text where their families cut it") {
  const std::string text = "It's 2024,  I'LL\r\n\n go";
  const auto cut = [&](const char* pre) {
    return PiecesOf(Value(tok::PreTokenizerForGguf(pre, "pre")), text);
  };
  CHECK(cut("gpt-2") == Texts{"It", "'s", " 2024", ",", " ", " I", "'", "LL", "\r\n\n", " go"});
  CHECK(cut("smollm") ==
        Texts{"It", "'s", " ", "2", "0", "2", "4", ",", " ", " I", "'", "LL", "\r\n\n", " go"});
  CHECK(cut("llama-bpe") == Texts{"It", "'s", " ", "202", "4", ",", " ", " I", "'LL", "\r\n\n", " go"});
  CHECK(cut("qwen2") == Texts{"It", "'s", " ", "2", "0", "2", "4", ",", " ", " I", "'LL", "\r\n\n", " go"});
}

TEST_CASE("U+180E is no white space, U+0085 and U+3000 are, and letters of Unicode 15 are letters") {
  const tok::PreTokenizer gpt2 = Value(tok::PreTokenizerForGguf("gpt-2", "pre"));
  CHECK(PiecesOf(gpt2, "a \u180E! b") == Texts{"a", " \u180E!", " b"});
  CHECK(PiecesOf(gpt2, "a \u0085\u3000b") == Texts{"a", " \u0085", "\u3000", "b"});
  CHECK(PiecesOf(gpt2, "a\U0001E030\U00031350\U0001E4F0!") ==
        Texts{"a\U0001E030\U00031350", "\U0001E4F0", "!"});
  // Unicode 16 came after llama.cpp's tables: still unassigned there, a letter to the tokenizers library.
  CHECK(PiecesOf(gpt2, "a\U00016D40b") == Texts{"a", "\U00016D40", "b"});
  tok::PreTokenizer steps;
  steps.push_back(
      tok::MakeRegexSplit(Value(tok::Regex::Compile(tok::kGpt2Pattern, tok::UnicodeVersion::k16, "p")),
                          tok::SplitBehavior::kIsolated, /*invert=*/false));
  CHECK(PiecesOf(steps, "a\U00016D40b") == Texts{"a\U00016D40b"});
}

TEST_CASE("Split puts the delimiter where its behavior says, inverted or not") {
  const auto cut = [](tok::SplitBehavior behavior, bool invert) {
    tok::PreTokenizer steps;
    steps.push_back(tok::MakeRegexSplit(Value(tok::Regex::Compile("-", tok::UnicodeVersion::k16, "p")),
                                        behavior, invert));
    return PiecesOf(steps, "the-final--countdown");
  };
  using Behavior = tok::SplitBehavior;  // the example of the tokenizers library's documentation
  CHECK(cut(Behavior::kRemoved, false) == Texts{"the", "final", "countdown"});
  CHECK(cut(Behavior::kIsolated, false) == Texts{"the", "-", "final", "-", "-", "countdown"});
  CHECK(cut(Behavior::kMergedWithPrevious, false) == Texts{"the-", "final-", "-", "countdown"});
  CHECK(cut(Behavior::kMergedWithNext, false) == Texts{"the", "-final", "-", "-countdown"});
  CHECK(cut(Behavior::kContiguous, false) == Texts{"the", "-", "final", "--", "countdown"});
  CHECK(cut(Behavior::kRemoved, true) == Texts{"-", "-", "-"});
}

TEST_CASE("Literals are found longest first, or leftmost longest") {
  tok::LiteralMatcher matcher;
  matcher.Add("ab", 0);
  matcher.Add("bcd", 1);
  matcher.Add("a", 2);
  matcher.Build();
  std::vector<int32_t> longest_first, leftmost;
  for (const auto& f : matcher.PartitionLongestFirst("xabcdab")) longest_first.push_back(f.value);
  for (const auto& f : matcher.MatchLeftmostLongest("xabcdab")) leftmost.push_back(f.value);
  CHECK(longest_first == std::vector<int32_t>{-1, 2, 1, 0});
  CHECK(leftmost == std::vector<int32_t>{0, 0});
}

TEST_CASE("Invalid UTF-8 reads as the two reference tokenizers read it") {
  CHECK(tok::ReplaceInvalidUtf8("\xC0\x80|\xE2\x82|\xF0\x9F\x98|\xED\xA0\x80|\xF4\x90\x80\x80") ==
        "\uFFFD\uFFFD|\uFFFD|\uFFFD|\uFFFD\uFFFD\uFFFD|\uFFFD\uFFFD\uFFFD\uFFFD");
  CHECK(tok::RewriteUtf8Leniently("\xC1\x81|\xE2\x82|\xED\xA0\x80|\xFF") ==
        "A|\uFFFD\uFFFD|\xED\xA0\x80|\uFFFD");
}

}  // namespace spikefold
