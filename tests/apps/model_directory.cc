#include "tests/apps/model_directory.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/safetensors.h"

namespace spikefold::testing {
namespace {

// GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up.
std::string ByteSymbol(int byte) {
  const auto prints = [](int b) {
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || (b >= 0xae && b <= 0xff);
  };
  int code = byte;
  if (!prints(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += prints(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

void WriteByteTokenizer(const std::string& directory, int num_tokens) {
  Json vocab = Json::MakeObject();
  for (int byte = 0; byte < num_tokens; ++byte) vocab.Set(ByteSymbol(byte), byte);
  const Json byte_level =
      Json::MakeObject().Set("type", "ByteLevel").Set("add_prefix_space", false).Set("trim_offsets", true);
  const Json tokenizer =
      Json::MakeObject()
          .Set("version", "1.0")
          .Set("added_tokens", Json::MakeArray())
          .Set("normalizer", Json())
          .Set("pre_tokenizer", Json(byte_level).Set("use_regex", true))
          .Set("post_processor", Json())
          .Set("decoder", byte_level)
          .Set("model",
               Json::MakeObject().Set("type", "BPE").Set("vocab", vocab).Set("merges", Json::MakeArray()));
  REQUIRE(WriteFileAtomically(directory + "/tokenizer.json", tokenizer.Dump(1)).ok());
}

Json ConfigJson(const ModelConfig& c) {
  return Json::MakeObject()
      .Set("architectures", Json(Json::Array{Json("LlamaForCausalLM")}))
      .Set("model_type", "llama")
      .Set("hidden_size", c.hidden)
      .Set("intermediate_size", c.intermediate)
      .Set("num_hidden_layers", c.num_layers)
      .Set("num_attention_heads", c.num_heads)
      .Set("num_key_value_heads", c.num_kv_heads)
      .Set("head_dim", c.head_dim)
      .Set("vocab_size", c.vocab)
      .Set("max_position_embeddings", c.max_positions)
      .Set("rms_norm_eps", static_cast<double>(c.norm_eps))
      .Set("rope_theta", c.rope.theta)
      .Set("hidden_act", "silu")
      .Set("tie_word_embeddings", c.tied_embeddings)
      .Set("torch_dtype", "float32");
}

}  // namespace

void WriteTinyLlama(const std::string& directory) {
  std::filesystem::create_directories(directory);
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(absl::StrCat(SPIKEFOLD_TEST_DATA, "/tiny/llama/", name),
                               absl::StrCat(directory, "/", name));
  }
  WriteByteTokenizer(directory, 128);
}

PlantedSpikes WriteModel(const TinyModelOptions& options, const std::string& directory) {
  std::filesystem::create_directories(directory);
  const TinyModel tiny = MakeTinyModel(options);
  std::vector<SafetensorsWriter::Spec> specs;
  for (const StoredTensor& t : tiny.checkpoint->tensors()) specs.push_back({t.name, DType::kF32, t.shape});
  auto writer = SafetensorsWriter::Create(directory + "/model.safetensors", specs);
  REQUIRE(writer.ok());
  for (const StoredTensor& t : tiny.checkpoint->tensors()) {
    REQUIRE((*writer)->Write(t.name, tiny.checkpoint->tensor(t.name).view()).ok());
  }
  REQUIRE((*writer)->Finish().ok());
  const Json config = ConfigJson(tiny.checkpoint->graph().config);
  REQUIRE(WriteFileAtomically(directory + "/config.json", config.Dump(1)).ok());
  WriteByteTokenizer(directory, 256);
  return tiny.planted;
}

PlantedSpikes WritePlantedModel(const std::string& directory) {
  return WriteModel({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3}, directory);
}

std::string RandomText(int num_words, unsigned seed) {
  std::mt19937 random(seed);
  std::string text;
  for (int word = 0; word < num_words; ++word) {
    const int length = 1 + static_cast<int>(random() % 8);
    for (int i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 26);
    text += word % 12 == 11 ? '\n' : ' ';
  }
  return text;
}

}  // namespace spikefold::testing
