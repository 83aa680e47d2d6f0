#include "tests/formats/tokenizer_fixtures.h"

namespace spikefold {
namespace {

struct RealModel {
  const char* row;
  const char* file;
  int32_t bos, eos;
  bool add_bos;
};
constexpr RealModel kModels[] = {
    {"smollm2", "/smollm2-135m-instruct-q4_1.gguf", 1, 2, false},
    {"gemma3", "/gemma-3-270m-q4_k_m.gguf", 2, 1, true},
};

}  // namespace

TEST_CASE("Both test models give llama.cpp's ids on all of wiki.test.raw and on the adversarial strings") {
  const Json expected = ReadJson(TokenizerData("expected_gguf.json"));
  const auto strings = AdversarialStrings();
  const std::string wiki = ReadAll(SPIKEFOLD_TEST_DATA "/wiki.test.raw");
  for (const RealModel& model : kModels) {
    INFO(model.row);
    const auto tokenizer = GgufTokenizerOf(std::string(SPIKEFOLD_MODELS) + model.file);
    CHECK(tokenizer->bos_id() == model.bos);
    CHECK(tokenizer->eos_id() == model.eos);
    CHECK(tokenizer->add_bos() == model.add_bos);
    const Json& row = *expected.Find(model.row);
    CheckFamily(*tokenizer, row, strings);
    CheckStream(EncodeAll(*tokenizer, {wiki}, false), *row.Find("wiki.test.raw"));
    CHECK((tokenizer->Decode(Value(tokenizer->Encode(wiki))) == wiki));
  }
}

TEST_CASE("SmolLM2 reads wiki.test.raw as 303,415 tokens, the count that its perplexity figures rest on") {
  const auto tokenizer = GgufTokenizerOf(std::string(SPIKEFOLD_MODELS) + kModels[0].file);
  const auto ids = Value(tokenizer->Encode(ReadAll(SPIKEFOLD_TEST_DATA "/wiki.test.raw")));
  CHECK(ids.size() == 303'415);
}

TEST_CASE("A megabyte of one character encodes with Gemma's 262,144 pieces") {
  const auto tokenizer = GgufTokenizerOf(std::string(SPIKEFOLD_MODELS) + kModels[1].file);
  for (const char unit : {'a', ' ', '\n', '<'}) {
    const std::string text(1'000'000, unit);
    CHECK((tokenizer->Decode(Value(tokenizer->Encode(text))) == text));
  }
}

}  // namespace spikefold
