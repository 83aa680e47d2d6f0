#include <catch2/catch.hpp>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "formats/base/file.h"
#include "formats/export/gguf_metadata.h"
#include "formats/families/family.h"
#include "formats/families/gguf_fields.h"
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "formats/model_graph.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using absl::StatusCode;

std::string Tiny(const std::string& name) { return SPIKEFOLD_TEST_DATA "/tiny/" + name; }

Json ReadJson(const std::string& path) {
  const auto text = ReadFileToString(path, 1 << 20);
  REQUIRE(text.ok());
  auto json = ParseJson(*text, "config.json");
  REQUIRE(json.ok());
  return *json;
}
ModelConfig TinyConfig(const std::string& name) {
  const auto c = ConfigFromJson(ReadJson(Tiny(name) + "/config.json"));
  REQUIRE(c.ok());
  return *c;
}
ModelConfig Parse(const std::string& text) {
  const auto json = ParseJson(text, "config.json");
  REQUIRE(json.ok());
  const auto c = ConfigFromJson(*json);
  INFO(c.status());
  REQUIRE(c.ok());
  return *c;
}
void CheckRefused(const std::string& text, StatusCode code, const std::string& message) {
  const auto json = ParseJson(text, "config.json");
  REQUIRE(json.ok());
  const auto c = ConfigFromJson(*json);
  CHECK(c.status().code() == code);
  CHECK(std::string(c.status().message()) == message);
}

// A Llama config of transformers 4 with further members.
std::string Llama(const std::string& more) {
  return R"({"architectures":["LlamaForCausalLM"],"vocab_size":1000,"hidden_size":64,"intermediate_size":128,
  "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-05,"rope_theta":500000.0,
  "max_position_embeddings":2048,"bos_token_id":1,"eos_token_id":2)" +
         (more.empty() ? "" : "," + more) + "}";
}

}  // namespace

TEST_CASE("The config.json of SmolLM2 as transformers 4 wrote it is understood", "[families]") {
  const ModelConfig c =
      Parse(R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
    "bos_token_id":1,"eos_token_id":2,"hidden_act":"silu","hidden_size":576,"initializer_range":0.041666666666666664,
    "intermediate_size":1536,"is_llama_config":true,"max_position_embeddings":8192,"mlp_bias":false,
    "model_type":"llama","num_attention_heads":9,"num_hidden_layers":30,"num_key_value_heads":3,"pad_token_id":2,
    "pretraining_tp":1,"rms_norm_eps":1e-05,"rope_interleaved":false,"rope_scaling":null,"rope_theta":100000,
    "tie_word_embeddings":true,"torch_dtype":"bfloat16","transformers_version":"4.42.3","use_cache":true,
    "vocab_size":49152})");
  CHECK(c.family == "llama");
  CHECK(c.head_dim == 64);
  CHECK(c.num_kv_heads == 3);
  CHECK(c.rope.theta == 100000.0);
  CHECK(c.rope.scaling == RopeScaling::kNone);
  CHECK(c.tied_embeddings);
  CHECK(c.norm_eps == 1e-5f);
  CHECK(c.attention_scale == 0.125f);
  CHECK(c.max_positions == 8192);
}

TEST_CASE("Both generations of transformers describe one rope the same way", "[families]") {
  const std::string scaling =
      R"("rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192)";
  const ModelConfig old_style = Parse(Llama("\"rope_scaling\":{" + scaling + "}"));
  const ModelConfig new_style =
      Parse(absl::StrReplaceAll(Llama("\"rope_parameters\":{\"rope_theta\":500000.0," + scaling + "}"),
                                {{"\"rope_theta\":500000.0,\n", ""}}));
  CHECK(old_style == new_style);
  CHECK(old_style.rope.scaling == RopeScaling::kLlama3);
  CHECK(old_style.rope.factor == 32.0);
  CHECK(old_style.rope.theta == 500000.0);
  const ModelConfig linear = Parse(Llama(R"("rope_scaling":{"type":"linear","factor":4.0})"));
  CHECK(linear.rope.scaling == RopeScaling::kLinear);
  CHECK(linear.rope.factor == 4.0);
  // As transformers 5.24 takes them: an empty rope_scaling is none, positions beside a rope win over its own.
  const ModelConfig empty =
      Parse(Llama(R"("rope_scaling":{},"rope_parameters":{"rope_type":"linear","factor":4.0})"));
  CHECK(empty == linear);
  const ModelConfig beside =
      Parse(Llama("\"original_max_position_embeddings\":4096,\"rope_scaling\":{" + scaling + "}"));
  CHECK(beside.rope.original_max_positions == 4096);
}

TEST_CASE("The tiny configurations of transformers 5 are understood", "[families]") {
  const ModelConfig llama = TinyConfig("llama");
  CHECK(llama.rope.scaling == RopeScaling::kLlama3);
  CHECK(llama.rope.original_max_positions == 64);
  CHECK(!llama.tied_embeddings);
  const ModelConfig bias = TinyConfig("llama_bias");
  CHECK((bias.qkv_bias && bias.o_bias && bias.mlp_bias));
  const ModelConfig mistral = TinyConfig("mistral");
  CHECK(mistral.sliding_window == 16);
  CHECK(mistral.sliding_layers == std::vector<bool>{true, true});
  CHECK(mistral.rope_local == mistral.rope);
  CHECK(mistral.head_dim == 16);
  const ModelConfig qwen2 = TinyConfig("qwen2");
  CHECK((qwen2.qkv_bias && !qwen2.o_bias));
  CHECK(qwen2.sliding_layers == std::vector<bool>{false, true, true});
  const ModelConfig qwen3 = TinyConfig("qwen3");
  CHECK(qwen3.qk_norm);
  CHECK(qwen3.head_dim == 24);
  CHECK(qwen3.sliding_window == 0);
  const auto qwen = [](const std::string& window) {
    return Parse(
        R"({"architectures":["Qwen2ForCausalLM"],"vocab_size":160,"hidden_size":48,"intermediate_size":96,
      "num_hidden_layers":2,"num_attention_heads":3,"use_sliding_window":true,"max_window_layers":1)" +
        window + "}");
  };
  CHECK(qwen("").sliding_window == 4096);
  CHECK(qwen("").sliding_layers == std::vector<bool>{false, true});
  CHECK(qwen(R"(,"sliding_window":null)").sliding_layers.empty());  // void, as use_sliding_window: false
}

TEST_CASE("Gemma 3 reads its two rope bases, its layer pattern and its scales", "[families]") {
  const ModelConfig c = TinyConfig("gemma3");
  CHECK((c.sandwich_norm && c.qk_norm && c.tied_embeddings));
  CHECK(c.activation == GateActivation::kGeluTanh);
  CHECK(c.norm_gain_offset == 1.0f);
  CHECK(c.embedding_scale == std::sqrt(40.0f));
  CHECK(c.attention_scale == static_cast<float>(1 / std::sqrt(20.0)));
  CHECK(c.rope.theta == 1e6);
  CHECK(c.rope.scaling == RopeScaling::kLinear);
  CHECK(c.rope_local.theta == 1e4);
  CHECK(c.rope_local.scaling == RopeScaling::kNone);
  CHECK(c.sliding_layers == std::vector<bool>{true, true, true, true, true, false});
  // transformers 4 spelling, pattern as a number
  const ModelConfig old_style =
      Parse(R"({"architectures":["Gemma3ForCausalLM"],"vocab_size":262144,"hidden_size":640,
    "intermediate_size":2048,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":1,"head_dim":256,
    "sliding_window":512,"_sliding_window_pattern":6,"sliding_window_pattern":2,"rope_theta":1000000.0,
    "rope_local_base_freq":10000.0,"rope_scaling":{"factor":8.0,"rope_type":"linear"},"eos_token_id":[1,106],
    "attn_logit_softcapping":null,"final_logit_softcapping":null,"query_pre_attn_scalar":256})");
  CHECK(old_style.sliding_layers == std::vector<bool>{true, false, true});
  CHECK(old_style.rope.factor == 8.0);
  CHECK(old_style.rope_local.factor == 1.0);
  CHECK(old_style.eos_id == 1);
  CHECK(old_style.eos_ids == std::vector<int64_t>{106});
  // Both spellings: members of rope_scaling take the place of full_attention's.
  const ModelConfig both = Parse(R"({"architectures":["Gemma3ForCausalLM"],"vocab_size":1000,"hidden_size":64,
    "intermediate_size":128,"num_hidden_layers":6,"num_attention_heads":4,"num_key_value_heads":1,"head_dim":16,
    "rope_scaling":{"factor":8.0,"rope_type":"linear"},"rope_parameters":{
    "full_attention":{"rope_type":"default","rope_theta":900.0},
    "sliding_attention":{"rope_type":"default","rope_theta":33.0}}})");
  CHECK(both.rope.theta == 900);
  CHECK(both.rope.factor == 8);
  CHECK(both.rope_local.theta == 33);
  CHECK(both.rope_local.scaling == RopeScaling::kNone);
}

TEST_CASE("What a config says survives being written as transformers 4 and read again", "[families]") {
  for (const char* name : {"llama", "llama_bias", "mistral", "qwen2", "qwen3", "gemma3"}) {
    INFO(name);
    const ModelConfig c = TinyConfig(name);
    const auto again = ConfigFromJson(ConfigToJson(c));
    REQUIRE(again.ok());
    CHECK(*again == c);
  }
}

TEST_CASE("Whatever changes the function and is not supported is refused by name", "[families]") {
  const auto unsupported = [](const std::string& more, const std::string& message) {
    CheckRefused(Llama(more), StatusCode::kUnimplemented, "config.json: " + message);
  };
  unsupported(R"("hidden_act":"relu")",
              "\"hidden_act\" is \"relu\"; supported are silu and gelu_pytorch_tanh");
  unsupported(R"("rope_scaling":{"rope_type":"yarn","factor":4.0})",
              "rope: rope type \"yarn\"; supported are default, linear and llama3");
  unsupported(R"("partial_rotary_factor":0.5)",
              "\"partial_rotary_factor\" is 0.5, which is not supported; only 1 or null is");
  unsupported(R"("rope_parameters":{"rope_theta":1e4,"partial_rotary_factor":0.25})",
              "rope: partial_rotary_factor is 0.25; only 1 is supported");
  unsupported(R"("num_local_experts":8)",
              "\"num_local_experts\" is 8, which is not supported; only 0 or null is");
  unsupported(R"("attn_logit_softcapping":50.0)",
              "\"attn_logit_softcapping\" is 50.0, which is not supported; only 0 or null is");
  unsupported(R"("rope_interleaved":true)",
              "\"rope_interleaved\" is true, which is not supported; only 0 or null is");
  unsupported(R"("sliding_window":4096)",
              "\"sliding_window\" is not supported for LlamaForCausalLM; MistralForCausalLM has it");
  unsupported(R"("no_rope_layers":[1,0])", "\"no_rope_layers\" is not supported");
}

TEST_CASE("Contradicting or missing fields are refused", "[families]") {
  CheckRefused(absl::StrReplaceAll(Llama(""), {{"\"num_attention_heads\":4", "\"num_attention_heads\":7"}}),
               StatusCode::kDataLoss,
               "config.json: num_attention_heads=7 does not divide hidden_size=64 and there is no head_dim");
  CheckRefused(absl::StrReplaceAll(Llama(""), {{"\"num_attention_heads\":4", "\"num_attention_heads\":0"}}),
               StatusCode::kDataLoss,
               "config.json: num_attention_heads=0 does not divide hidden_size=64 and there is no head_dim");
  CheckRefused(absl::StrReplaceAll(Llama(""), {{"\"vocab_size\":1000,", ""}}), StatusCode::kDataLoss,
               "config.json: \"vocab_size\" is missing");
  CheckRefused(Llama(R"("rope_scaling":{"rope_type":"linear"})"), StatusCode::kDataLoss,
               "config.json: rope: \"factor\" is missing");
  CheckRefused(Llama(R"("rope_scaling":{"rope_type":"linear","factor":0})"), StatusCode::kDataLoss,
               "config.json: rope: factor=0 is not positive");
  CheckRefused("[]", StatusCode::kDataLoss, "config.json: is no object");
}

TEST_CASE("A window of no positions is refused where null means none", "[families]") {
  const auto mistral = [](const std::string& window) {
    return R"({"architectures":["MistralForCausalLM"],"vocab_size":160,"hidden_size":48,"intermediate_size":96,
      "num_hidden_layers":2,"num_attention_heads":3,"num_key_value_heads":3,"sliding_window":)" +
           window + "}";
  };
  CHECK(Parse(mistral("null")).sliding_window == 0);
  CheckRefused(mistral("0"), StatusCode::kDataLoss,
               "config.json: \"sliding_window\" is not positive; null means none");
}

TEST_CASE("An unknown architecture is named with the nearest supported one", "[families]") {
  CheckRefused(
      R"({"architectures":["LlamaForCasualLM"]})", StatusCode::kUnimplemented,
      "config.json: architecture \"LlamaForCasualLM\" is not supported (did you mean "
      "\"LlamaForCausalLM\"?); supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, "
      "Qwen3ForCausalLM, Gemma3ForCausalLM");
  CheckRefused(R"({"architectures":["OPTForX"]})", StatusCode::kUnimplemented,
               "config.json: architecture \"OPTForX\" is not supported; supported are LlamaForCausalLM, "
               "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Gemma3ForCausalLM");
}

TEST_CASE("A GGUF file made from a model describes the same model", "[families][gguf]") {
  for (const char* name : {"llama", "llama_bias", "qwen3", "gemma3"}) {
    INFO(name);
    const auto file = GgufFile::Open(Tiny(name) + "/model.gguf");
    REQUIRE(file.ok());
    const auto got = ConfigFromGguf(**file);
    INFO(got.status());
    REQUIRE(got.ok());
    ModelConfig want = TinyConfig(name);
    want.bos_id = want.eos_id = -1;  // these files have no vocabulary
    // GGUF has no key for query_pre_attn_scalar; llama.cpp takes head_dim.
    if (want.family == "gemma3") want.attention_scale = 0.25f;
    CHECK(got->rope == want.rope);
    CHECK(got->rope_local == want.rope_local);
    CHECK(*got == want);
  }
}

TEST_CASE("Llama-3 parameters are found behind a table of frequency divisors", "[families]") {
  // Llama 3.2 1B: theta 5e5, head_dim 64, factor 32, 1, 4, 8192; as its converter computes them.
  std::vector<float> factors;
  for (int i = 0; i < 32; ++i) {
    const double wavelength = 2 * M_PI * std::pow(500000.0, i / 32.0);
    const double smooth = (8192 / wavelength - 1) / 3;
    factors.push_back(static_cast<float>(wavelength < 2048   ? 1.0
                                         : wavelength > 8192 ? 32.0
                                                             : 1 / ((1 - smooth) / 32 + smooth)));
  }
  const auto rope = RopeFromFactors(factors, 500000.0, "m.gguf");
  REQUIRE(rope.ok());
  CHECK(*rope == RopeConfig{500000.0, RopeScaling::kLlama3, 32.0, 1.0, 4.0, 8192});
  factors[20] *= 1.01f;
  const auto other = RopeFromFactors(factors, 500000.0, "m.gguf");
  CHECK(other.status().code() == StatusCode::kUnimplemented);
  CHECK(
      other.status().message() ==
      "m.gguf: rope_freqs.weight does not follow Llama-3 scaling; other frequency tables are not supported");
  factors[3] = -1;
  CHECK(RopeFromFactors(factors, 500000.0, "m.gguf").status().code() == StatusCode::kDataLoss);
  CHECK(RopeFromFactors({{2.0f, 2.0f}}, 1e4, "m.gguf")->scaling == RopeScaling::kLinear);
}

TEST_CASE("Every table that Llama-3 scaling makes is read as one that makes it again", "[families]") {
  int tables = 0;
  std::string refused;
  for (const double theta : {1e4, 5e5}) {
    for (const int64_t head_dim : {16, 20, 32, 64, 128}) {
      for (const int64_t old : {64, 2048, 4096, 8192, 16384, 65536, 131072}) {
        for (const double factor : {3.0, 8.0, 32.0}) {
          for (const auto& [low, high] : {std::pair(1.0, 4.0), {1.0, 2.0}, {1.0, 1.5}, {2.0, 8.0}}) {
            ModelConfig config;
            config.head_dim = head_dim;
            config.rope = {theta, RopeScaling::kLlama3, factor, low, high, old};
            const std::vector<float> factors = RopeFactors(config);
            const auto read = RopeFromFactors(factors, theta, "m.gguf");
            ++tables;
            bool same = read.ok();
            if (read.ok() && read->scaling == RopeScaling::kLlama3) {
              config.rope = *read;
              const std::vector<float> again = RopeFactors(config);
              for (size_t f = 0; f < factors.size(); ++f) {
                same = same && std::abs(again[f] - factors[f]) <= 3e-5f * factors[f];
              }
            }
            if (!same)
              absl::StrAppend(&refused, theta, " ", head_dim, " ", old, " ", factor, " ", high, "\n");
          }
        }
      }
    }
  }
  INFO(refused);
  CHECK(refused.empty());
  CHECK(tables == 840);
}

// A GGUF file of a model with d = 16 and two heads, with `edit`'s metadata beside the least that it needs.
absl::StatusOr<ModelConfig> FromGguf(const std::string& arch, const std::function<void(GgufMetadata&)>& edit,
                                     int64_t factors = 0) {
  const testing::TempDirectory directory;
  const std::string path = directory / "m.gguf";
  GgufMetadata metadata;
  metadata.AddString("general.architecture", arch);
  metadata.AddU32(arch + ".embedding_length", 16);
  metadata.AddU32(arch + ".feed_forward_length", 32);
  metadata.AddU32(arch + ".block_count", 2);
  metadata.AddU32(arch + ".attention.head_count", 2);
  metadata.AddF32(arch + ".attention.layer_norm_rms_epsilon", 1e-5f);
  edit(metadata);
  std::vector<GgufWriter::Spec> tensors = {{"token_embd.weight", {4, 16}, GgmlType::kF32}};
  if (factors > 0) tensors.push_back({"rope_freqs.weight", {factors}, GgmlType::kF32});
  const auto writer = GgufWriter::Create(path, metadata, tensors);
  REQUIRE(writer.status() == absl::OkStatus());
  for (const auto& t : tensors) {
    std::string ones;
    for (uint64_t i = 0; i < t.bytes() / 4; ++i) ones += std::string("\0\0\x80\x3f", 4);
    REQUIRE((*writer)->Write(t.name, ones).ok());
  }
  REQUIRE((*writer)->Finish().ok());
  const auto file = GgufFile::Open(path);
  REQUIRE(file.status() == absl::OkStatus());
  return ConfigFromGguf(**file);
}

TEST_CASE("Metadata of a GGUF file that changes the function is refused by name", "[families][gguf]") {
  using Edit = std::function<void(GgufMetadata&)>;
  const auto refused = [](const Edit& edit, const std::string& message,
                          StatusCode code = StatusCode::kUnimplemented, const std::string& arch = "llama",
                          int64_t factors = 0) {
    CHECK_THAT(FromGguf(arch, edit, factors).status(), testing::Fails(code, message));
  };
  refused(
      [](GgufMetadata& m) {
        m.AddI32s("llama.attention.head_count_kv", {{1, 2}});
      },
      "\"llama.attention.head_count_kv\" differs between layers, which is not supported");
  refused([](GgufMetadata& m) { m.AddU32("llama.expert_count", 8); },
          "\"llama.expert_count\" is 8, which is not supported; only 0 is");
  refused([](GgufMetadata& m) { m.AddF32("llama.logit_scale", 0.5f); }, "only 1 is");
  refused([](GgufMetadata& m) { m.AddU32("llama.mystery", 1); }, "unknown metadata \"llama.mystery\"");
  refused([](GgufMetadata& m) { m.AddU32("split.count", 3); }, "is one part of a split model");
  refused([](GgufMetadata& m) { m.AddString("split.count", "3"); }, "is one part of a split model");
  refused([](GgufMetadata& m) { m.AddString("llama.rope.scaling.type", "yarn"); },
          "rope scaling \"yarn\"; supported are none and linear");
  refused([](GgufMetadata& m) { m.AddU32("llama.attention.value_length", 4); },
          "value_length=4 differs from key_length=8");
  refused([](GgufMetadata& m) { m.AddU32("llama.rope.dimension_count", 4); },
          "rope.dimension_count=4; only the whole head_dim=8 is supported");
  refused([](GgufMetadata& m) { m.AddU32("llama.attention.sliding_window", 4); },
          "sliding_window is not supported");
  refused([](GgufMetadata& m) { m.AddU32("qwen2.attention.sliding_window", 4); },
          "a sliding window in a Qwen GGUF", StatusCode::kUnimplemented, "qwen2");
  refused([](GgufMetadata& m) { m.AddF32("llama.rope.scale_linear", 2); },
          "has both rope_freqs.weight and rope scaling", StatusCode::kUnimplemented, "llama", 4);

  const auto contradicts = [&](const Edit& edit, const std::string& message, int64_t factors = 0) {
    refused(edit, message, StatusCode::kDataLoss, "llama", factors);
  };
  contradicts([](GgufMetadata& m) { m.AddF32("llama.rope.freq_base", std::nanf("")); }, "is not finite");
  contradicts([](GgufMetadata& m) { m.AddF32("llama.rope.freq_base", -1); },
              "rope base -1 and factor 1 must be");
  contradicts([](GgufMetadata& m) { m.AddF32("llama.rope.scale_linear", 0); },
              "and factor 0 must be positive");
  contradicts([](GgufMetadata&) {}, "rope_freqs.weight is [3]; [4] is needed", 3);
  contradicts([](GgufMetadata& m) { m.AddString("llama.context_length", "long"); }, "llama.context_length");
}

TEST_CASE("Metadata that changes nothing is let through", "[families][gguf]") {
  const auto llama = FromGguf("llama", [](GgufMetadata& m) {
    m.AddI32s("llama.attention.head_count_kv", {{1, 1}});
    m.AddU32("llama.expert_count", 0);
    m.AddU32("split.count", 1);
    m.AddF32("llama.rope.scale_linear", 2);
  });
  REQUIRE(llama.status() == absl::OkStatus());
  CHECK(llama->num_kv_heads == 1);
  CHECK(llama->rope == RopeConfig{.scaling = RopeScaling::kLinear, .factor = 2});
  CHECK(FromGguf(
            "llama", [](GgufMetadata&) {}, 4)
            ->rope == RopeConfig{});  // divisors of 1
  const auto pattern = [](const std::vector<bool>& layers) {
    return FromGguf("gemma3", [layers](GgufMetadata& m) {
      m.AddU32("gemma3.attention.sliding_window", 4);
      m.AddBools("gemma3.attention.sliding_window_pattern", layers);
    });
  };
  REQUIRE(pattern({true, false}).status() == absl::OkStatus());
  CHECK(pattern({true, false})->sliding_layers == std::vector<bool>{true, false});
  CHECK_THAT(BuildGraph(*pattern({true})).status(),
             testing::Fails(StatusCode::kDataLoss, "1 layer types for 2 layers; one a layer is needed"));
}

}  // namespace spikefold
