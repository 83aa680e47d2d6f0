// Whole models as GGUF: codes, tokenizer and configuration, read back as any user of the file would.
#include <catch2/catch.hpp>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/export/gguf_export.h"
#include "formats/export/gguf_metadata.h"
#include "formats/families/family.h"
#include "formats/gguf.h"
#include "formats/gguf_encode.h"
#include "formats/gguf_writer.h"
#include "tests/formats/export_kit.h"
#include "tests/formats/tokenizer_fixtures.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using namespace export_kit;
using absl::StatusCode;
using testing::Fails;
using testing::MakeTinyModel;
using testing::TempDirectory;
using testing::TinyModel;
using testing::TinyModelOptions;

bool Is(const QuantizedLinear& q, const char* name) { return absl::EndsWith(q.module, name); }
std::string Module(const char* name) { return absl::StrCat("model.layers.0.", name); }

TinyModelOptions Tiny(int64_t vocab = 256) {
  return {.hidden = 64,
          .intermediate = 96,
          .num_layers = 1,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 32,
          .vocab = vocab};
}

// The tokenizer of a GGUF file, as an import leaves it beside the weights.
NativeExtras WithTokenizer() {
  const auto model = CheckpointReader::Open(SPIKEFOLD_TEST_DATA "/tiny/llama/model.gguf");
  REQUIRE(model.ok());
  NativeExtras extras;
  const auto files = (*model)->SideFiles();
  REQUIRE(files.ok());
  for (const auto& file : *files) extras.side_files.push_back({file.name, file.bytes});
  REQUIRE(extras.side_files.size() == 1);
  return extras;
}
void KeepFloat(QuantizedLinear&) {}

TEST_CASE("Codes reach GGUF's blocks without a second rounding, and come back in HF's order",
          "[gguf][export]") {
  const TinyModel tiny = MakeTinyModel(Tiny());
  const TempDirectory directory;
  const auto source = Native(
      *tiny.checkpoint, directory / "native",
      [](QuantizedLinear& q) {
        if (Is(q, "q_proj")) RandomCodes(q, WeightFormat::kS8c), q.act = ActivationFormat::kS8Token;
        if (Is(q, "k_proj")) RandomCodes(q, {.bits = 3, .grouped = true}, 32);
        if (Is(q, "v_proj")) RandomCodes(q, {.bits = 4, .grouped = true, .symmetric = false}, 32);
        if (Is(q, "o_proj")) RandomCodes(q, WeightFormat::kS4g, 64);
        if (Is(q, "gate_proj")) RandomCodes(q, WeightFormat::kS4g, 32), KeepColumns(q, {3});
        if (Is(q, "up_proj")) RandomCodes(q, WeightFormat::kS8c), KeepWeight(q, 5, 40, 8.5f);
        if (Is(q, "down_proj")) RandomCodes(q, {.bits = 8, .grouped = true, .symmetric = false}, 32);
      },
      WithTokenizer());
  const auto report = ExportGguf(*source, directory / "out.gguf", {.name = "tiny"});
  REQUIRE(report.status() == absl::OkStatus());
  const auto reader = CheckpointReader::Open(directory / "out.gguf");
  REQUIRE(reader.status() == absl::OkStatus());
  CheckSameValues(*source, **reader,
                  {Module("mlp.gate_proj"), Module("mlp.up_proj"), Module("mlp.down_proj")});
  const auto type = [&](const char* module) { return TensorOf(*report, Module(module)).to; };
  CHECK(type("self_attn.q_proj") == "Q8_0");
  CHECK(type("self_attn.k_proj") == "Q4_0");
  CHECK(type("self_attn.v_proj") == "Q4_1");
  CHECK(type("self_attn.o_proj") == "Q4_0");
  CHECK(type("mlp.gate_proj") == "Q8_0");
  CHECK(type("mlp.down_proj") == "F16");
  CHECK(TensorOf(*report, Module("mlp.down_proj")).reason == "codes minus zero points of 8 bits need 9 bits");
  CHECK(LossOf(*report, "activations").detail.find("INT8 per token of 1 linears is not carried over") == 0);
  // Only the blocks with a kept column (block 0 of each row) or a kept weight (block 1 of row 5) are rounded.
  for (const char* name : {"mlp.gate_proj", "mlp.up_proj"}) {
    const bool gate = std::string(name) == "mlp.gate_proj";
    const Tensor written = *(*reader)->ReadF32(Module(name) + ".weight");
    Tensor ours;
    for (const ExportWeight& w : source->weights()) {
      if (w.node.module == Module(name)) ours = *source->ReadWeight(w);
    }
    for (size_t i = 0; i < static_cast<size_t>(ours.num_elements()); ++i) {
      const size_t row = i / 64, block = i % 64 / 32;
      const bool mixed = gate ? block == 0 : row == 5 && block == 1;
      const float a = ours.as<float>()[i], b = written.as<float>()[i];
      if (mixed ? std::abs(a - b) > (gate ? 0.005f : 0.04f) : a != b)
        FAIL(name << " " << i << ": " << a << " " << b);
    }
  }
  const auto file = GgufFile::Open(directory / "out.gguf");
  CHECK(*(*file)->GetString("general.name") == "tiny");
  CHECK(*(*file)->GetInt("general.quantization_version") == 2);
}

TEST_CASE("A tokenizer.json in GGUF's terms gives the same ids, and brings its template along",
          "[gguf][export]") {
  const std::vector<std::string> texts = AdversarialStrings();
  for (const char* name : {"gpt2", "llama3", "llama2"}) {
    INFO(name);
    const TinyModel tiny = MakeTinyModel(Tiny(1010));
    const TempDirectory directory;
    NativeExtras extras;
    extras.side_files = {{"tokenizer.json", ReadAll(TokenizerData(absl::StrCat(name, ".tokenizer.json")))},
                         {"tokenizer_config.json", R"({"chat_template": "{{ in_config }}"})"}};
    if (std::string(name) == "llama3") extras.side_files.push_back({"chat_template.jinja", "{{ in_file }}"});
    const auto source = Native(*tiny.checkpoint, directory / "native", KeepFloat, extras);
    const auto report = ExportGguf(*source, directory / "out.gguf", {});
    REQUIRE(report.status() == absl::OkStatus());
    REQUIRE(report->notes.size() == 1);
    CHECK_THAT(report->notes[0], Catch::Contains("gives the same ids on a text of hard cases"));
    const auto file = GgufFile::Open(directory / "out.gguf");
    REQUIRE(file.ok());
    CHECK(*(*file)->GetString("tokenizer.chat_template") ==
          (std::string(name) == "llama3" ? "{{ in_file }}" : "{{ in_config }}"));
    const auto ours = source->reader().LoadTokenizer();
    const auto theirs = Tokenizer::FromGguf(**file);
    REQUIRE(theirs.status() == absl::OkStatus());
    CHECK((*ours)->bos_id() == (*theirs)->bos_id());
    CHECK((*ours)->add_bos() == (*theirs)->add_bos());
    for (size_t i = 0; i < 400; ++i) CHECK(*(*ours)->Encode(texts[i]) == *(*theirs)->Encode(texts[i]));
  }
}

TEST_CASE("Tokenizers that GGUF cannot describe are refused, and so is their absence", "[gguf][export]") {
  const std::string gpt2 = ReadAll(TokenizerData("gpt2.tokenizer.json"));
  const auto refused = [](int64_t vocab, const std::string& tokenizer, StatusCode code,
                          const std::string& message) {
    const TinyModel tiny = MakeTinyModel(Tiny(vocab));
    const TempDirectory directory;
    NativeExtras extras;
    if (!tokenizer.empty()) extras.side_files = {{"tokenizer.json", tokenizer}};
    const auto source = Native(*tiny.checkpoint, directory / "native", KeepFloat, extras);
    CHECK_THAT(ExportGguf(*source, directory / "out.gguf", {}).status(), Fails(code, message));
    CHECK(*ListDirectory(directory.path()) == std::vector<std::string>{"native"});
  };
  refused(256, "", StatusCode::kNotFound, "has neither tokenizer.json nor tokenizer.gguf");
  refused(300, gpt2, StatusCode::kDataLoss, "the embedding has 300 rows");
  Json other = *ParseJson(gpt2, "gpt2");
  other.Set("pre_tokenizer",
            *ParseJson(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})", ""));
  refused(1010, other.Dump(), StatusCode::kUnimplemented, "no pre-tokenizer of GGUF that is known here");
  other = *ParseJson(gpt2, "gpt2");
  Json model = *other.Find("model");
  model.Set("merges", Json::MakeArray());
  other.Set("model", std::move(model));
  refused(1010, other.Dump(), StatusCode::kUnimplemented, "tokenizer.json has no merges");
}

TEST_CASE("Rotary scaling goes through GGUF and back", "[gguf][export]") {
  for (const RopeScaling scaling : {RopeScaling::kLinear, RopeScaling::kLlama3}) {
    TinyModelOptions options = Tiny();
    options.max_positions = 131072;
    options.rope = {.theta = 500000, .scaling = scaling, .factor = 8};
    const TinyModel tiny = MakeTinyModel(options);
    const TempDirectory directory;
    const auto source = Native(*tiny.checkpoint, directory / "native", KeepFloat, WithTokenizer());
    REQUIRE(ExportGguf(*source, directory / "out.gguf", {}).status() == absl::OkStatus());
    const auto file = GgufFile::Open(directory / "out.gguf");
    const auto config = ConfigFromGguf(**file);
    REQUIRE(config.status() == absl::OkStatus());
    CHECK(config->rope == source->config().rope);
    const GgufTensor* factors = (*file)->FindTensor("rope_freqs.weight");
    CHECK((factors != nullptr) == (scaling == RopeScaling::kLlama3));
    if (factors == nullptr) continue;
    const Tensor f = *(*file)->ReadF32(*factors);
    CHECK(f.as<float>()[0] == 1);   // a wavelength of 6 positions
    CHECK(f.as<float>()[15] == 8);  // of 1.4 million
  }
}

TEST_CASE("Biases and head norms go through GGUF, for families whose rows are not permuted too",
          "[gguf][export]") {
  for (const char* family : {"qwen2", "qwen3", "llama"}) {
    INFO(family);
    TinyModelOptions options = Tiny();
    options.qk_norm = std::string(family) == "qwen3";
    options.qkv_bias = !options.qk_norm;
    options.o_bias = options.mlp_bias = std::string(family) == "llama";
    options.random_gains = true;
    const TinyModel tiny = MakeTinyModel(options);
    const TempDirectory directory;
    const auto source = Native(*tiny.checkpoint, directory / "native", KeepFloat, WithTokenizer());
    REQUIRE(source->config().family == family);
    REQUIRE(ExportGguf(*source, directory / "out.gguf", {}).status() == absl::OkStatus());
    const auto reader = CheckpointReader::Open(directory / "out.gguf");
    REQUIRE(reader.status() == absl::OkStatus());
    CheckSameValues(*source, **reader);
    for (const StoredTensor& t : source->reader().tensors()) {
      if (!absl::EndsWith(t.name, ".bias")) continue;
      INFO(t.name);
      const auto ours = source->reader().ReadF32(t.name), theirs = (*reader)->ReadF32(t.name);
      REQUIRE(theirs.status() == absl::OkStatus());
      CHECK(ours->as<float>() == theirs->as<float>());
    }
    const ModelConfig& config = (*reader)->graph().config;
    CHECK(config.qkv_bias == options.qkv_bias);
    CHECK(config.mlp_bias == options.mlp_bias);
    CHECK(config.qk_norm == options.qk_norm);
  }
}

TEST_CASE("What llama.cpp would compute otherwise is reported or refused", "[gguf][export]") {
  const TempDirectory directory;
  const std::string out = directory / "out.gguf";
  const auto base = [](const std::string& family) {
    return *CheckpointReader::Open(absl::StrCat(SPIKEFOLD_TEST_DATA "/tiny/", family));
  };
  {
    const auto source = Native(*base("mistral"), directory / "mistral", KeepFloat, WithTokenizer());
    const auto report = ExportGguf(*source, out, {});
    REQUIRE(report.status() == absl::OkStatus());
    CHECK(LossOf(*report, "sliding window").changes_function);
    CHECK_THAT(LossOf(*report, "sliding window").detail,
               Catch::StartsWith("the window of 16 positions is not"));
    RemoveFile(out).IgnoreError();
  }
  const auto refused = [&](const CheckpointReader& reader, const Fill& fill, const std::string& message) {
    const TempDirectory elsewhere;
    const auto source = Native(reader, elsewhere / "native", fill, WithTokenizer());
    CHECK_THAT(ExportGguf(*source, out, {}).status(), Fails(StatusCode::kUnimplemented, message));
    CHECK(!PathExists(out));
  };
  const auto bias_on = [](const char* module) {
    return [module](QuantizedLinear& q) {
      if (!Is(q, module) || q.has_bias) return;
      q.has_bias = true;
      q.bias.assign(static_cast<size_t>(q.n), 0.5f);
    };
  };
  refused(*base("qwen2"), bias_on("o_proj"),
          "o_proj has a bias, for which llama.cpp's qwen2 architecture has no place");
  refused(*base("qwen3"), bias_on("up_proj"),
          "up_proj has a bias, for which llama.cpp's qwen3 architecture has no place");
  TinyModelOptions gemma = Tiny();
  gemma.sandwich = gemma.qk_norm = gemma.tied = true;
  gemma.activation = GateActivation::kGeluTanh;
  gemma.norm_gain_offset = 1;
  gemma.embedding_scale = 8;
  gemma.num_layers = 2;
  gemma.sliding_window = 16;
  gemma.sliding_layers = {true, false};
  refused(*MakeTinyModel(gemma).checkpoint, KeepFloat,
          "layer_types other than five sliding layers to a global one");
  gemma.num_layers = 1;
  gemma.sliding_layers = {true};
  ModelConfig scaled = MakeTinyModel(gemma).checkpoint->graph().config;
  CHECK(CheckGgufModel(scaled).ok());
  scaled.rope_local.scaling = RopeScaling::kLinear;
  CHECK_THAT(CheckGgufModel(scaled), Fails(StatusCode::kUnimplemented, "a scaled rope of sliding layers"));
  TinyModelOptions gelu = Tiny();
  gelu.activation = GateActivation::kGeluTanh;
  refused(*MakeTinyModel(gelu).checkpoint, KeepFloat,
          "the activation gelu_pytorch_tanh; llama.cpp's llama has silu");
  TinyModelOptions qwen = Tiny();
  qwen.qkv_bias = true;
  qwen.max_positions = 131072;
  qwen.rope = {.theta = 500000, .scaling = RopeScaling::kLlama3, .factor = 8};
  refused(*MakeTinyModel(qwen).checkpoint, KeepFloat, "llama3 scaling of rope; llama.cpp's qwen2");
}

TEST_CASE("Float weights take the type that is asked for, or the nearest that their rows allow",
          "[gguf][export]") {
  const TinyModel tiny = MakeTinyModel(Tiny());
  const TempDirectory directory;
  const auto source = Native(*tiny.checkpoint, directory / "native", KeepFloat, WithTokenizer());
  const std::string up = Module("mlp.up_proj"), gate = Module("mlp.gate_proj");
  // Blocks that somebody else rounded: all of one scale and code.
  std::string block(34, '\1');
  block[0] = '\0';
  block[1] = '\x3c';  // 1.0
  std::map<std::string, std::string> blocks;
  for (int i = 0; i < 96 * 2; ++i) blocks[gate] += block;
  const auto report = ExportGguf(*source, directory / "out.gguf",
                                 {.type = GgmlType::kQ4_K, .types = {{up, GgmlType::kBF16}}});
  REQUIRE(report.status() == absl::OkStatus());
  CHECK(TensorOf(*report, gate).to == "Q5_0");  // rows of 64 are no blocks of 256
  CHECK(TensorOf(*report, gate).reason == "rows of 64 are no whole blocks of 256");
  CHECK(TensorOf(*report, gate).error > 0.01);
  CHECK(TensorOf(*report, gate).error < 0.06);
  CHECK(TensorOf(*report, up).to == "BF16");
  CHECK(TensorOf(*report, "model.embed_tokens").to == "Q8_0");
  CHECK(TensorOf(*report, "model.embed_tokens").reason == "embedding and head keep 8 bits");
  // Blocks of values that are not ours are noticed when they are read back.
  const GgufExportOptions given = {.types = {{gate, GgmlType::kQ8_0}}, .blocks = &blocks};
  CHECK_THAT(ExportGguf(*source, directory / "given.gguf", given).status(),
             Fails(StatusCode::kUnimplemented, "gate_proj.weight as Q8_0 differs by "));
  CHECK(!PathExists(directory / "given.gguf"));
  for (const std::string stage : {"writing tensors", "reading back"}) {
    const auto stop = [&](absl::string_view at, int64_t done, int64_t) { return at != stage || done < 2; };
    CHECK_THAT(ExportGguf(*source, directory / "given.gguf", {.progress = stop}).status(),
               Fails(StatusCode::kCancelled, "export: interrupted"));
    CHECK(*ListDirectory(directory.path()) == std::vector<std::string>{"native", "out.gguf"});
  }
}

TEST_CASE("A file of K-quants says so by llama.cpp's numbers", "[gguf][export]") {
  const TinyModel tiny = MakeTinyModel(Tiny());
  const TempDirectory directory;
  const std::pair<GgmlType, int64_t> cases[] = {
      {GgmlType::kQ8_0, 7}, {GgmlType::kQ4_K, 14}, {GgmlType::kQ5_K, 16}, {GgmlType::kQ6_K, 18}};
  for (const auto& [type, number] : cases) {
    const std::string path = directory / absl::StrCat(number, ".gguf");
    GgufMetadata metadata;
    ExportReport report;
    REQUIRE(AddModelMetadata(tiny.checkpoint->graph().config, "tiny", type, &metadata, &report).ok());
    const auto writer = GgufWriter::Create(path, metadata, {});
    REQUIRE(writer.ok());
    REQUIRE((*writer)->Finish().ok());
    CHECK(*(*GgufFile::Open(path))->GetInt("general.file_type") == number);
  }
}

TEST_CASE("Weights beyond float16 are refused as such by every format that needs it", "[gguf][export]") {
  const TinyModel tiny = MakeTinyModel(Tiny());
  tiny.checkpoint->tensor(Module("mlp.up_proj.weight")).as<float>()[7] = 1e5f;
  const TempDirectory directory;
  const auto source = Native(*tiny.checkpoint, directory / "native", KeepFloat, WithTokenizer());
  CHECK_THAT(ExportGguf(*source, directory / "out.gguf", {.type = GgmlType::kF16}).status(),
             Fails(StatusCode::kUnimplemented,
                   "up_proj.weight as F16 differs by inf of its size; its values do not fit"));
  CHECK(ExportGguf(*source, directory / "out.gguf", {.type = GgmlType::kBF16}).status() == absl::OkStatus());
}

}  // namespace
}  // namespace spikefold
