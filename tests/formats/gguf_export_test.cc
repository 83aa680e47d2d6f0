#include "formats/export/gguf_export.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/export/gguf_metadata.h"
#include "formats/families/family.h"
#include "formats/gguf.h"
#include "formats/gguf_encode.h"
#include "formats/gguf_writer.h"
#include "tests/formats/tokenizer_fixtures.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

constexpr GgmlType kEncoded[] = {GgmlType::kQ8_0, GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0,
                                 GgmlType::kQ5_1, GgmlType::kF16,  GgmlType::kBF16};

TEST_CASE("Floats become the blocks that gguf-py makes of them, byte by byte", "[gguf][export]") {
  const auto bytes = ReadFileToString(SPIKEFOLD_TEST_DATA "/gguf/encoded.bin", 1 << 20);
  REQUIRE(bytes.ok());
  std::vector<float> values(1024);
  std::memcpy(values.data(), bytes->data(), 4096);
  size_t at = 4096;
  for (const GgmlType type : kEncoded) {
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(type));
    std::string blocks(
        values.size() / static_cast<size_t>(info.block_elements) * static_cast<size_t>(info.block_bytes),
        '\0');
    EncodeGguf(type, values, blocks.data());
    INFO(info.name);
    CHECK(blocks == bytes->substr(at, blocks.size()));
    for (const size_t some : {32, 15 * 32, 17 * 32}) {  // blocks that go side by side, and those behind them
      std::string first(
          some / static_cast<size_t>(info.block_elements) * static_cast<size_t>(info.block_bytes), '\0');
      EncodeGguf(type, absl::MakeConstSpan(values).first(some), first.data());
      CHECK(first == bytes->substr(at, first.size()));
    }
    at += blocks.size();
  }
  CHECK(at == bytes->size());
}

TEST_CASE("Blocks of the smallest numbers become zeros", "[gguf][export]") {
  std::vector<float> values(32, 9e-41f);
  values[3] = 0;
  values[7] = -9e-41f;
  for (const GgmlType type :
       {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ8_0}) {
    const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(type));
    INFO(info->name);
    std::vector<char> block(static_cast<size_t>(info->block_bytes));
    EncodeGguf(type, values, block.data());
    std::vector<float> back(32, 1);
    info->decode(reinterpret_cast<const uint8_t*>(block.data()), 1, back.data());
    CHECK(back == std::vector<float>(32, 0));
    if (type == GgmlType::kQ4_0)
      CHECK(block[2] == '\x88');  // the code of zero, not what a cast of infinity gives
  }
}

TEST_CASE("Codes go into blocks without a second rounding", "[gguf][export]") {
  int8_t codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<int8_t>(i % 16 - 8);
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ8_0}) {
    const int zero = type == GgmlType::kQ4_1 ? 3 : 0;
    char block[40] = {};
    EncodeCodeBlock(type, 0.375f, codes, zero, block);
    float values[32];
    FindGgmlType(static_cast<uint32_t>(type))->decode(reinterpret_cast<const uint8_t*>(block), 1, values);
    for (int i = 0; i < 32; ++i) CHECK(values[i] == 0.375f * static_cast<float>(codes[i] - zero));
  }
}

TEST_CASE(
    "A model that went from GGUF through HF order and back has the converter's tensors and configuration",
    "[gguf][export]") {
  for (const char* name : {"llama", "llama_bias", "gemma3", "qwen3"}) {
    INFO(name);
    const std::string original = absl::StrCat(SPIKEFOLD_TEST_DATA "/tiny/", name, "/model.gguf");
    const auto source = ExportSource::Open(original);
    REQUIRE(source.ok());
    const TempDirectory directory;
    const auto report =
        ExportGguf(**source, directory / "out.gguf", {.type = GgmlType::kF32, .name = "tiny"});
    REQUIRE(report.status() == absl::OkStatus());
    const auto before = GgufFile::Open(original), after = GgufFile::Open(directory / "out.gguf");
    REQUIRE(after.ok());
    CHECK((*after)->tensors().size() == (*before)->tensors().size());
    for (const GgufTensor& t : (*before)->tensors()) {
      INFO(t.name);
      const GgufTensor* written = (*after)->FindTensor(t.name);
      REQUIRE(written != nullptr);
      CHECK(written->shape == t.shape);
      const auto a = (*before)->ReadF32(t), b = (*after)->ReadF32(*written);
      // A gain of Gemma goes through gain - 1.
      for (int64_t i = 0; i < a->num_elements(); ++i) {
        CHECK(std::abs(a->as<float>()[static_cast<size_t>(i)] - b->as<float>()[static_cast<size_t>(i)]) <=
              (std::string(name) == "gemma3" ? 1e-6f : 0.0f));
      }
    }
    CHECK(*ConfigFromGguf(**before) == *ConfigFromGguf(**after));
  }
}

TEST_CASE("The pre-tokenizer of a tokenizer.json is recognised by what it does", "[gguf][export]") {
  const std::vector<std::string> texts = AdversarialStrings();
  const std::pair<const char*, const char*> families[] = {
      {"gpt2", "gpt-2"}, {"smollm", "smollm"}, {"llama3", "llama-bpe"}, {"qwen2", "qwen2"}, {"llama2", ""}};
  for (const auto& [name, pre] : families) {
    INFO(name);
    const Json document = ReadJson(TokenizerData(absl::StrCat(name, ".tokenizer.json")));
    const auto vocab = GgufVocabOf(document, Json(), {.vocab = 5000}, name);
    REQUIRE(vocab.status() == absl::OkStatus());
    CHECK(vocab->pre == pre);
    CHECK(vocab->tokens.size() == 5000);
    CHECK(vocab->types[4999] == 5);
    if (vocab->bos_id < 0) {
      CHECK(GgufVocabOf(document, Json(), {.vocab = 5000, .bos_id = 7}, name)->bos_id == 7);
    }
    if (std::string(name) == "qwen2") continue;  // normalizes to NFC, which GGUF cannot say
    const auto ours = *Tokenizer::FromTokenizerJson(document, Json(), name);
    const auto theirs = *tok::MakeGgufTokenizer(*vocab, name);
    for (size_t i = 0; i < 400; ++i) CHECK(*ours->Encode(texts[i]) == *theirs->Encode(texts[i]));
  }
}

TEST_CASE("Types follow from what a linear is made of", "[gguf][export]") {
  QuantizedLinearSpec spec;
  spec.n = 8, spec.k = 64, spec.group = 32;
  ExportWeight weight;
  weight.shape = {8, 64};
  weight.spec = &spec;
  const auto decide = [&] { return DecideGguf(weight, {}); };
  spec.format = WeightFormat::kS4g;
  CHECK(decide().type == GgmlType::kQ4_0);
  spec.format.symmetric = false;
  CHECK(decide().type == GgmlType::kQ4_1);
  spec.format.bits = 3;
  CHECK(decide().type == GgmlType::kQ4_0);
  spec.num_kept = 2;  // columns beside 4-bit codes: 8 bits
  CHECK(decide().type == GgmlType::kQ8_0);
  CHECK(decide().codes);
  spec.num_kept = 0;
  spec.group = 16;
  CHECK(decide().type == GgmlType::kF16);
  CHECK(decide().reason == "groups of 16 split a block of 32");
  spec.format = WeightFormat::kS8c;
  CHECK(decide().type == GgmlType::kQ8_0);
  spec.format.symmetric = false;
  CHECK(decide().type == GgmlType::kF16);
}

TEST_CASE("The writer refuses what the format does not allow and leaves no file", "[gguf][export]") {
  const TempDirectory directory;
  const std::string path = directory / "x.gguf";
  GgufMetadata twice;
  twice.AddU32("a", 1);
  twice.AddU32("a", 2);
  CHECK_THAT(GgufWriter::Create(path, twice, {}).status(),
             Fails(StatusCode::kInvalidArgument, "\"a\" is there twice"));
  const auto create = [&](std::vector<GgufWriter::Spec> specs) {
    return GgufWriter::Create(path, GgufMetadata(), std::move(specs)).status();
  };
  CHECK_THAT(create({{"w", {2, 33}, GgmlType::kQ8_0}}),
             Fails(StatusCode::kInvalidArgument, "whole blocks of 32"));
  CHECK_THAT(create({{std::string(64, 'n'), {1}, GgmlType::kF32}}),
             Fails(StatusCode::kInvalidArgument, "64 bytes"));
  CHECK_THAT(create({{"w", {1}, GgmlType::kF32}, {"w", {1}, GgmlType::kF32}}),
             Fails(StatusCode::kInvalidArgument, "declared twice"));
  {
    const auto writer = GgufWriter::Create(path, GgufMetadata(), {{"w", {1}, GgmlType::kF32}});
    REQUIRE(writer.ok());
    CHECK_THAT((*writer)->Write("w", {}), Fails(StatusCode::kInvalidArgument, "0 bytes; declared are 4"));
    CHECK_THAT((*writer)->Finish(), Fails(StatusCode::kInvalidArgument, "has not been written"));
  }
  CHECK(!PathExists(path));
}

}  // namespace
}  // namespace spikefold
