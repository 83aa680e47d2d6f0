#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/formats/tokenizer_fixtures.h"

namespace spikefold {
namespace {

using absl::StatusCode;

std::unique_ptr<Tokenizer> FamilyTokenizer(const std::string& family, const Json& config = Json()) {
  const Json document = ReadJson(TokenizerData(family + ".tokenizer.json"));
  return Value(Tokenizer::FromTokenizerJson(document, config, "tokenizer.json"));
}

// A byte-level tokenizer whose parts can be replaced.
struct Parts {
  std::string vocab = R"({"a":0,"b":1,"ab":2,"<s>":3})";
  std::string merges = R"(["a b"])";
  std::string added = "[]";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":true})";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string model_extra = "";

  absl::StatusOr<std::unique_ptr<Tokenizer>> Make(const Json& config = Json()) const {
    const std::string text =
        absl::StrCat(R"({"added_tokens":)", added, R"(,"normalizer":)", normalizer, R"(,"pre_tokenizer":)",
                     pre_tokenizer, R"(,"post_processor":null,"decoder":)", decoder,
                     R"(,"model":{"type":"BPE","vocab":)", vocab, R"(,"merges":)", merges, model_extra, "}}");
    return Tokenizer::FromTokenizerJson(Value(ParseJson(text, "t.json")), config, "t.json");
  }
};

void CheckRefused(const Parts& parts, StatusCode code, const std::string& message) {
  const auto tokenizer = parts.Make();
  CHECK(tokenizer.status().code() == code);
  CHECK(std::string(tokenizer.status().message()) == message);
}

std::string SplitOn(const std::string& regex) {
  return R"({"type":"Split","pattern":{"Regex":")" + regex + R"("},"behavior":"Isolated","invert":false})";
}

}  // namespace

TEST_CASE(
    "tokenizer.json of each family gives the ids of the tokenizers library on the adversarial strings") {
  const Json expected = ReadJson(TokenizerData("expected_json.json"));
  auto strings = AdversarialStrings();
  strings.resize(expected.Find("strings")->int_value());  // the library takes valid UTF-8 only
  for (const auto& [family, row] : expected.Find("families")->object()) {
    INFO(family);
    CheckFamily(*FamilyTokenizer(family), row, strings);
  }
}

TEST_CASE("Where the tokenizer names no BOS token, the model's is taken, and added only if asked for") {
  const Json document = ReadJson(TokenizerData("qwen2.tokenizer.json"));
  const auto bos = [&](int64_t model_bos, const Json& config) {
    const auto t = Value(Tokenizer::FromTokenizerJson(document, config, "t.json", model_bos));
    CHECK_FALSE(t->add_bos());
    return t->bos_id();
  };
  CHECK(bos(-1, Json()) == -1);
  CHECK(bos(17, Json()) == 17);
  CHECK(bos(int64_t{1} << 40, Json()) == -1);  // no token
  const std::string first = Value(Tokenizer::FromTokenizerJson(document, Json(), "t.json"))->Decode({0});
  CHECK(bos(17, Json::MakeObject().Set("bos_token", first)) == 0);
}

TEST_CASE("Decoding gives the text back where the pipeline keeps it") {
  auto strings = AdversarialStrings();
  strings.resize(1800);
  // NFC rewrites and byte-level families with every byte keep all; the mark itself reads as a space.
  for (const char* family : {"gpt2", "llama3", "llama2", "gemma"}) {
    INFO(family);
    const auto tokenizer = FamilyTokenizer(family);
    const bool marks = absl::StrContains("llama2 gemma", family);
    for (const std::string& text : strings) {
      const std::string expected = marks ? absl::StrReplaceAll(text, {{"▁", " "}}) : text;
      const std::string decoded = tokenizer->Decode(Value(tokenizer->Encode(text)));
      if (decoded != expected) FAIL_CHECK("\"" << expected << "\" came back as \"" << decoded << "\"");
    }
  }
}

TEST_CASE("BOS, EOS and whether BOS is wanted come from the template and from tokenizer_config.json") {
  const auto llama3 = FamilyTokenizer("llama3");
  CHECK(llama3->TokenText(llama3->bos_id()) == "<|begin_of_text|>");
  CHECK(llama3->add_bos());
  CHECK(llama3->eos_id() == -1);
  const Json config =
      Value(ParseJson(R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","add_bos_token":false})",
                      "tokenizer_config.json"));
  const auto llama2 = FamilyTokenizer("llama2", config);
  CHECK(llama2->bos_id() == 1);
  CHECK(llama2->eos_id() == 2);
  CHECK_FALSE(llama2->add_bos());
  CHECK(llama2->is_special(2));
  CHECK_FALSE(llama2->is_special(300));
  CHECK(llama2->Decode({1, 2}, /*skip_special=*/true).empty());
  const Json wrong = Value(ParseJson(R"({"eos_token":"<nowhere>"})", "tokenizer_config.json"));
  const auto refused = Parts().Make(wrong);
  CHECK(refused.status().code() == StatusCode::kDataLoss);
  CHECK(std::string(refused.status().message()) ==
        "t.json: tokenizer_config.json: eos_token: \"<nowhere>\" is not in the vocabulary");
}

TEST_CASE("Invalid UTF-8 becomes U+FFFD before a tokenizer.json sees it") {
  const auto tokenizer = FamilyTokenizer("gpt2");
  CHECK(tokenizer->Decode(Value(tokenizer->Encode("a\xff"
                                                  "b\xe2\x82"))) == "a\uFFFDb\uFFFD");
  CHECK(tokenizer->Decode(Value(tokenizer->Encode("\xed\xa0\x80\xf0\x9f\x98"))) ==
        "\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST_CASE("tokenizer.json with merges of unknown tokens, double ids or ids beyond reach is refused") {
  Parts parts;
  parts.merges = R"([["a","b"],["ab","x"]])";
  CheckRefused(parts, StatusCode::kDataLoss,
               "t.json: model.merges[1]: \"ab x\" needs the token \"x\", which is not in the vocabulary");
  parts = Parts();
  parts.merges = R"(["a b","ab"])";
  CheckRefused(parts, StatusCode::kDataLoss,
               "t.json: model.merges: [1]: expected \"left right\" or [\"left\", \"right\"]");
  parts = Parts();
  parts.vocab = R"({"a":0,"b":1,"ab":1})";
  CheckRefused(parts, StatusCode::kDataLoss, "t.json: model.vocab: \"ab\" and \"b\" both have id 1");
  parts.vocab = R"({"a":0,"b":1,"ab":1099511627776})";
  CheckRefused(parts, StatusCode::kDataLoss,
               "t.json: model.vocab: \"ab\" has id 1099511627776; expected 0 to 65538");
  parts.vocab = R"({"a":0,"b":-1,"ab":2})";
  CheckRefused(parts, StatusCode::kDataLoss, "t.json: model.vocab: \"b\" has id -1; expected 0 to 65538");
  parts.vocab = R"({"a":0,"b":1.5,"ab":2})";
  CheckRefused(parts, StatusCode::kDataLoss,
               "t.json: model.vocab: \"b\" has no integer id; expected 0 to 65538");
  parts = Parts();
  parts.added = R"([{"id":7,"content":"ab","special":true}])";
  CheckRefused(parts, StatusCode::kDataLoss, "t.json: added_tokens[0]: \"ab\" has id 7, but also id 2");
  parts = Parts();
  parts.model_extra = R"(,"unk_token":"<unk>")";
  CheckRefused(parts, StatusCode::kDataLoss, "t.json: model.unk_token: \"<unk>\" is not in the vocabulary");
}

TEST_CASE("Node types that are not known are refused with their path") {
  Parts parts;
  parts.pre_tokenizer =
      R"({"type":"Sequence","pretokenizers":[{"type":"Digits"},{"type":"BertPreTokenizer"}]})";
  CheckRefused(
      parts, StatusCode::kUnimplemented,
      "t.json: pre_tokenizer.pretokenizers[1]: type \"BertPreTokenizer\" is not supported; supported: "
      "ByteLevel, Digits, Metaspace, Sequence, Split");
  parts = Parts();
  parts.normalizer = R"({"type":"Lowercase"})";
  CheckRefused(
      parts, StatusCode::kUnimplemented,
      "t.json: normalizer: type \"Lowercase\" is not supported; supported: NFC, Prepend, Replace, Sequence");
  parts = Parts();
  parts.decoder = R"({"type":"Sequence","decoders":[{"type":"CTC"}]})";
  CheckRefused(
      parts, StatusCode::kUnimplemented,
      "t.json: decoder.decoders[0]: type \"CTC\" is not supported; supported: ByteFallback, ByteLevel, "
      "Fuse, Metaspace, Replace, Sequence, Strip");
  parts = Parts();
  parts.model_extra = R"(,"dropout":0.1)";
  CheckRefused(parts, StatusCode::kUnimplemented, "t.json: model.dropout: random merging is not supported");
}

TEST_CASE("Patterns that backtrack without bound or mean something else here are refused") {
  Parts parts;
  parts.pre_tokenizer = SplitOn("(a+)+$");
  const auto tokenizer = Value(parts.Make());
  CHECK(Value(tokenizer->Encode("aaab")).size() == 3);
  const auto ids = tokenizer->Encode(std::string(60, 'a') + "b");
  CHECK(ids.status().code() == StatusCode::kDataLoss);
  CHECK(std::string(ids.status().message()) ==
        "t.json: pre_tokenizer: pattern \"(a+)+$\" gives up at byte 0 of 61 (match limit exceeded); use a "
        "pattern "
        "that does not backtrack without bound");
  parts.pre_tokenizer = SplitOn("(a+");
  CheckRefused(parts, StatusCode::kDataLoss,
               "t.json: pre_tokenizer: pattern \"(a+\" does not compile: missing closing parenthesis");
  parts.pre_tokenizer = SplitOn("a\\\\w+");
  CheckRefused(parts, StatusCode::kUnimplemented,
               "t.json: pre_tokenizer: pattern offset 1: \\w is not supported in \"a\\w+\"");
  parts.pre_tokenizer = SplitOn("(*LIMIT_MATCH=9)a");
  CheckRefused(parts, StatusCode::kUnimplemented,
               "t.json: pre_tokenizer: pattern offset 0: (* is not supported in \"(*LIMIT_MATCH=9)a\"");
  parts.pre_tokenizer = SplitOn("[a&&b]");
  CheckRefused(
      parts, StatusCode::kUnimplemented,
      "t.json: pre_tokenizer: pattern offset 2: an intersection of classes is not supported in \"[a&&b]\"");
}

}  // namespace spikefold
