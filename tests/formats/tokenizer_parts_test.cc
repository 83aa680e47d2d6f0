#include "absl/strings/str_cat.h"
#include "formats/tokenizer/json_pipeline.h"
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

// The pieces and texts of the next three tests are those of the tokenizers library, 0.23.3.
TEST_CASE("A pattern that matches nothing too cuts as in the tokenizers library") {
  const auto cut = [](tok::SplitBehavior behavior, bool invert) {
    tok::PreTokenizer steps;
    steps.push_back(tok::MakeRegexSplit(Value(tok::Regex::Compile("x*", tok::UnicodeVersion::k16, "p")),
                                        behavior, invert));
    return PiecesOf(steps, "ab--xxe\u00e9");
  };
  using Behavior = tok::SplitBehavior;
  const Texts alone = {"a", "b", "-", "-", "xx", "e", "\u00e9"};
  CHECK(cut(Behavior::kRemoved, false) == Texts{"a", "b", "-", "-", "e", "\u00e9"});
  CHECK(cut(Behavior::kRemoved, true) == Texts{"xx"});
  for (const bool invert : {false, true}) {
    CHECK(cut(Behavior::kIsolated, invert) == alone);
    CHECK(cut(Behavior::kContiguous, invert) == alone);
    const Texts before = {"a", "b", "-", "-xx", "e", "\u00e9"}, after = {"a", "b", "-", "-", "xxe", "\u00e9"};
    CHECK(cut(Behavior::kMergedWithPrevious, invert) == (invert ? after : before));
    CHECK(cut(Behavior::kMergedWithNext, invert) == (invert ? before : after));
  }
}

TEST_CASE("Pre-tokenizers of tokenizer.json cut as in the tokenizers library") {
  const auto cut = [](const std::string& json, const std::string& text) {
    const Json node = Value(ParseJson(json, "t.json"));
    return PiecesOf(Value(tok::ParsePreTokenizer({&node, "t.json: "})).steps, text);
  };
  const std::string text = "Hey  friend \u2581x ";
  const auto metaspace = [&](const std::string& options) {
    return cut(absl::StrCat(R"({"type":"Metaspace","replacement":"\u2581")", options, "}"), text);
  };
  const Texts rest = {"\u2581", "\u2581friend", "\u2581", "\u2581x", "\u2581"};
  const auto behind = [&](const char* first) {
    Texts all = {first};
    all.insert(all.end(), rest.begin(), rest.end());
    return all;
  };
  CHECK(metaspace(R"(,"prepend_scheme":"always")") == behind("\u2581Hey"));
  CHECK(metaspace(R"(,"prepend_scheme":"first")") == behind("\u2581Hey"));
  CHECK(metaspace(R"(,"prepend_scheme":"never")") == behind("Hey"));
  CHECK(metaspace(R"(,"add_prefix_space":true)") == behind("\u2581Hey"));
  CHECK(metaspace(R"(,"add_prefix_space":false)") == behind("Hey"));
  CHECK(metaspace(R"(,"prepend_scheme":"never","split":false)") ==
        Texts{"Hey\u2581\u2581friend\u2581\u2581x\u2581"});
  const std::string byte_level = R"({"type":"ByteLevel","add_prefix_space":true,"use_regex":true})";
  CHECK(cut(byte_level, "x\ny") == Texts{" x", "\n", "y"});
  CHECK(cut(byte_level, " x y") == Texts{" x", " y"});
  const std::string digits = R"({"type":"Digits","individual_digits":false})";
  CHECK(cut(absl::StrCat(R"({"type":"Sequence","pretokenizers":[)", digits, ",", byte_level, "]}"),
            "a12 b  c3 4") == Texts{" a", " 12", " b", " ", " c", " 3", " ", " 4"});
}

TEST_CASE("Decoders of tokenizer.json join tokens as in the tokenizers library") {
  const auto decode = [](const std::string& json, const Texts& tokens) {
    const Json node = Value(ParseJson(json, "t.json"));
    std::vector<tok::DecodedToken> decoded;
    for (const std::string& token : tokens) decoded.push_back({token});
    for (const auto& step : Value(tok::ParseDecoder({&node, "t.json: "}))) step->Apply(&decoded);
    std::string text;
    for (const auto& token : decoded) text += token.text;
    return text;
  };
  const Texts cases[] = {{"\u2581\u2581a", "\u2581b"}, {"\u2581a\u2581b", "c"}, {"\u2581"}, {"a", "\u2581"},
                         {"x", "\u2581\u2581y"},       {"", "\u2581a"}};
  const std::string meta = R"({"type":"Metaspace","replacement":"\u2581")";
  const std::string steps =
      R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},)"
      R"("content":" "},{"type":"ByteFallback"},{"type":"Fuse"},)"
      R"({"type":"Strip","content":" ","start":1,"stop":0}]})";
  const struct {
    std::string decoder;
    Texts expected;
  } tables[] = {{meta + R"(,"prepend_scheme":"always"})", {"a b", "abc", "", "a ", "x  y", " a"}},
                {meta + R"(,"prepend_scheme":"first"})", {"a b", "abc", "", "a ", "x  y", " a"}},
                {meta + R"(,"prepend_scheme":"never"})", {"  a b", " a bc", " ", "a ", "x  y", " a"}},
                {meta + R"(,"add_prefix_space":false})", {"  a b", " a bc", " ", "a ", "x  y", " a"}},
                {steps, {" a b", "a bc", "", "a ", "x  y", "a"}}};
  for (const auto& table : tables) {
    INFO(table.decoder);
    for (size_t i = 0; i < std::size(cases); ++i) CHECK(decode(table.decoder, cases[i]) == table.expected[i]);
  }
  const std::string strip = R"({"type":"Strip","content":" ","start":2,"stop":1})";
  CHECK(decode(strip, {" a ", "  b  ", "   c", "d"}) == "ab  cd");
  CHECK(decode(R"({"type":"ByteFallback"})", {"<0xE5>", "<0x8f>", "<0xab>", "<0x4>", "<0xZZ>"}) ==
        "\u53eb<0x4><0xZZ>");
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
