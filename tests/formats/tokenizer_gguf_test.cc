#include <limits>

#include "absl/strings/str_cat.h"
#include "formats/tokenizer/gguf_tokenizer.h"
#include "tests/formats/tokenizer_fixtures.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using tok::GgufVocab;
using tok::MakeGgufTokenizer;

GgufVocab ByteLevelVocab() {
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = "gpt-2";
  vocab.tokens = {"a", "b", "c", "ab", "abc", "Ġ", "<|im_end|>", "<x>"};
  vocab.types = {1, 1, 1, 1, 1, 1, 3, 4};
  vocab.merges = {"a b", "ab c"};
  return vocab;
}

GgufVocab ScoredVocab() {
  GgufVocab vocab;
  vocab.model = "llama";
  vocab.tokens = {"<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "ab", "▁", "▁a"};
  vocab.types = {2, 3, 3, 6, 1, 1, 1, 1, 1};
  vocab.scores = {0, 0, 0, 0, -1, -2, -3, -4, -5};
  vocab.unk_id = 0;
  return vocab;
}

void CheckRefused(GgufVocab vocab, StatusCode code, const std::string& message) {
  const auto tokenizer = MakeGgufTokenizer(std::move(vocab), "m.gguf");
  CHECK(tokenizer.status().code() == code);
  CHECK(std::string(tokenizer.status().message()) == message);
}

}  // namespace

TEST_CASE("Small GGUF vocabularies of each pre-tokenizer give llama.cpp's ids on the adversarial strings") {
  const Json expected = ReadJson(TokenizerData("expected_gguf.json"));
  const auto strings = AdversarialStrings();
  for (const char* family : {"gpt2", "llama3", "qwen2", "llama2"}) {
    INFO(family);
    const auto tokenizer = GgufTokenizerOf(TokenizerData(absl::StrCat(family, ".vocab.gguf")));
    CheckFamily(*tokenizer, *expected.Find(family), strings);
  }
}

TEST_CASE(
    "A swapped pair of merges changes the ids of the adversarial strings") {  // the canary of the hashes
  const auto file = Value(GgufFile::Open(TokenizerData("gpt2.vocab.gguf")));
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = "gpt-2";
  vocab.tokens = std::get<GgufValue::Strings>(file->Find("tokenizer.ggml.tokens")->v);
  vocab.merges = std::get<GgufValue::Strings>(file->Find("tokenizer.ggml.merges")->v);
  vocab.types = std::get<std::vector<int64_t>>(file->Find("tokenizer.ggml.token_type")->v);
  const Json expected = ReadJson(TokenizerData("expected_gguf.json"));
  const auto strings = AdversarialStrings();
  const auto sha = [&] { return EncodeAll(*Value(MakeGgufTokenizer(vocab, "m")), strings, false).sha256; };
  const std::string right = expected.Find("gpt2")->Find("plain")->Find("sha256")->string_value();
  CHECK(sha() == right);
  std::swap(vocab.merges[1], vocab.merges[4]);  // "h e", "e r": "her" becomes h, er
  CHECK(sha() != right);
}

TEST_CASE("Byte-level merges go by rank, then from the left, and special tokens only when asked for") {
  const auto tokenizer = Value(MakeGgufTokenizer(ByteLevelVocab(), "m.gguf"));
  const auto ids = [&](absl::string_view text, bool special) {
    return Value(tokenizer->Encode(text, {.parse_special = special}));
  };
  CHECK(ids("abcab", false) == std::vector<int32_t>{4, 3});
  CHECK(ids("a<|im_end|>b", true) == std::vector<int32_t>{0, 6, 1});
  CHECK(ids("a<|im_end|>b", false) == std::vector<int32_t>{0, 1});  // bytes without a token vanish
  CHECK(ids("a<x>b", false) == std::vector<int32_t>{0, 7, 1});      // user-defined tokens always count
  CHECK(tokenizer->Decode({4, 5, 6, 3}) == "abc <|im_end|>ab");
  CHECK(tokenizer->Decode({4, 5, 6, 3}, /*skip_special=*/true) == "abc ab");
  CHECK(tokenizer->TokenText(5) == " ");
  CHECK(tokenizer->TokenText(99) == "[no token 99]");
  CHECK(tokenizer->is_special(6));
  CHECK_FALSE(tokenizer->is_special(7));
  CHECK_FALSE(tokenizer->add_bos());
}

TEST_CASE(
    "Scored merges go by score, the space prefix follows the start and special tokens, bytes fall back") {
  const auto tokenizer = Value(MakeGgufTokenizer(ScoredVocab(), "m.gguf"));
  const auto ids = [&](absl::string_view text) {
    return Value(tokenizer->Encode(text, {.parse_special = true}));
  };
  CHECK(ids("ab") == std::vector<int32_t>{7, 6});  // "ab" (-3) before "▁a" (-5)
  CHECK(ids("a b") == std::vector<int32_t>{8, 7, 5});
  CHECK(ids("a</s>a\n") == std::vector<int32_t>{8, 2, 8, 3});
  CHECK(ids("\xff") == std::vector<int32_t>{7, 0});  // no <0xFF>: unknown
  CHECK(tokenizer->Decode(ids("a b</s>a")) == "a b</s>a");
  CHECK(tokenizer->add_bos());
  CHECK(tokenizer->bos_id() == 1);
}

TEST_CASE("Runs of 300,000 bytes encode without quadratic work") {
  const auto gpt2 = GgufTokenizerOf(TokenizerData("gpt2.vocab.gguf"));
  const auto llama3 = GgufTokenizerOf(TokenizerData("llama3.vocab.gguf"));
  const auto llama2 = GgufTokenizerOf(TokenizerData("llama2.vocab.gguf"));
  for (const char* unit : {"a", " ", "\n", "\t ", "é", "\xff", "the"}) {
    std::string text;
    while (text.size() < 300'000) text += unit;
    for (const auto* tokenizer : {&gpt2, &llama3, &llama2}) {
      const auto ids = Value((*tokenizer)->Encode(text));
      if (IsValidUtf8(text)) CHECK(((*tokenizer)->Decode(ids) == text));
    }
  }
}

TEST_CASE("Equal GGUF vocabularies have equal fingerprints, any other rule another one") {
  const auto print = [](const GgufVocab& vocab) {
    return Value(MakeGgufTokenizer(vocab, "m"))->fingerprint();
  };
  GgufVocab vocab = ByteLevelVocab();
  const std::string first = print(vocab);
  CHECK(first.size() == 64);
  CHECK(print(ByteLevelVocab()) == first);
  vocab.pre = "smollm";
  CHECK(print(vocab) != first);
  vocab = ByteLevelVocab();
  std::swap(vocab.merges[0], vocab.merges[1]);
  CHECK(print(vocab) != first);
}

TEST_CASE("GGUF vocabularies that contradict themselves are refused with key and entry") {
  GgufVocab vocab = ByteLevelVocab();
  vocab.merges[1] = "ab x";
  CheckRefused(
      vocab, StatusCode::kDataLoss,
      "m.gguf: tokenizer.ggml.merges[1]: \"ab x\" needs the token \"x\", which is not in the vocabulary");
  vocab = ByteLevelVocab();
  vocab.merges[1] = "abc";
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.merges[1] is \"abc\"; expected two tokens and a space between");
  vocab = ByteLevelVocab();
  vocab.merges.clear();
  CheckRefused(vocab, StatusCode::kDataLoss, "m.gguf: tokenizer.ggml.merges is missing; model gpt2 needs it");
  vocab = ByteLevelVocab();
  vocab.tokens[2] = "a";
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.tokens[2] \"a\" is also token 0; every token must be unique");
  vocab = ByteLevelVocab();
  vocab.types.pop_back();
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.token_type has 7 entries; expected 8, one a token");
  vocab = ByteLevelVocab();
  vocab.types[1] = -1;
  CheckRefused(vocab, StatusCode::kDataLoss, "m.gguf: tokenizer.ggml.token_type[1] is -1; expected 1 to 6");
  vocab = ByteLevelVocab();
  vocab.bos_id = int64_t{1} << 40;
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.bos_token_id is 1099511627776; expected 0 to 7");
  vocab = ByteLevelVocab();
  vocab.tokens.clear();
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.tokens has 0 entries; expected 1 to 2147483647");
  vocab = ScoredVocab();
  vocab.tokens[3] = "<0x-1>";
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.tokens[3] \"<0x-1>\" has type byte; expected <0x00> to <0xFF>");
  vocab = ScoredVocab();
  vocab.scores[4] = std::numeric_limits<float>::quiet_NaN();
  CheckRefused(vocab, StatusCode::kDataLoss, "m.gguf: tokenizer.ggml.scores[4] is not finite");
  vocab = ScoredVocab();
  vocab.scores.clear();
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.scores has 0 entries; expected 9, one a token");
  vocab = ScoredVocab();
  vocab.unk_id.reset();
  CheckRefused(vocab, StatusCode::kDataLoss,
               "m.gguf: tokenizer.ggml.tokens: byte 0x00 has no token <0x00> and there is no unknown token");
}

TEST_CASE("GGUF models and pre-tokenizers that are not known are refused by name") {
  GgufVocab vocab = ByteLevelVocab();
  vocab.pre = "tekken";
  CheckRefused(
      vocab, StatusCode::kUnimplemented,
      "m.gguf: tokenizer.ggml.pre: pre-tokenizer \"tekken\" is not supported; supported: gpt-2, smollm, "
      "llama-bpe, qwen2");
  vocab.model = "bert";
  CheckRefused(vocab, StatusCode::kUnimplemented,
               "m.gguf: tokenizer.ggml.model \"bert\" is not supported; supported: gpt2, llama");
}

}  // namespace spikefold
