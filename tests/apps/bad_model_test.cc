// Bad inputs 31 to 36: values, configurations and tokenizers that lie.
#include <cstring>

#include "tests/apps/bad_inputs.h"

namespace spikefold::testing {
namespace {

// The places of the tiny model's tensors behind the header, in bytes; BF16 throughout.
constexpr size_t kHead = 8 + 2128, kDown0 = kHead + 32896, kDown0Bytes = 64 * 80 * 2, kEnd = kHead + 144000;

void PutBf16(const Workplace& w, size_t at, uint16_t bits, size_t count = 1) {
  std::string bytes = ReadAll(w.model + "/model.safetensors");
  REQUIRE(bytes.size() == kEnd);
  for (size_t i = 0; i < count; ++i) std::memcpy(bytes.data() + at + 2 * i, &bits, 2);
  WriteBytes(w.model + "/model.safetensors", bytes);
}
BadInput Value(const char* what, size_t at, uint16_t bits, const std::string& message) {
  return {.what = what,
          .spoil = [=](const Workplace& w) { PutBf16(w, at, bits); },
          .exit = 3,
          .message = "$W/model: " + message};
}
BadInput Config(const char* what, const std::string& key, const std::string& json, const std::string& message,
                int exit = 3) {
  return {.what = what, .spoil = WithConfig(key, json), .exit = exit, .message = "$W/model: " + message};
}

TEST_CASE("Weights that are not finite are refused, wherever they stand", "[apps][bad]") {
  CheckBadInputs({
      Value("31 NaN in a linear", kDown0 + 10, 0x7fc0,
            "model.layers.0.mlp.down_proj.weight: 1 of 5120 values are not finite, the first is NaN at index "
            "5; only finite weights are allowed"),
      Value("31 infinity in the last element of a linear", kDown0 + kDown0Bytes - 2, 0xff80,
            "model.layers.0.mlp.down_proj.weight: 1 of 5120 values are not finite, the first is infinite at "
            "index 5119; only finite weights are allowed"),
      Value("31 NaN in the file's last element, a norm", kEnd - 2, 0xffff,
            "model.norm.weight: 1 of 64 values are not finite, the first is NaN at index 63; only finite "
            "weights are allowed"),
  });
}

TEST_CASE("Rows of zeros, of one value and of the smallest numbers are quantized", "[apps][bad]") {
  // Bad input 32, which is none.
  const Workplace w;
  PutBf16(w, kDown0, 0, 80);             // zeros
  PutBf16(w, kDown0 + 160, 0x3f80, 80);  // 1
  PutBf16(w, kDown0 + 320, 0x0001, 80);  // the smallest subnormal
  PutBf16(w, kDown0 + 480, 0x3301, 80);  // below float16's subnormals
  for (const char* scheme : {"w8a16", "w4a16", "w2a16", "w4a8", "w4a4"}) {
    const std::string out = w / scheme;
    Succeed({"quantize", w.model, "--scheme", scheme, "--text", w.text, "--windows", "4", "--length", "64",
             "-o", out});
    Succeed({"verify", out});
  }
}

TEST_CASE("A configuration that contradicts itself or the tensors is refused", "[apps][bad]") {
  const auto two = [](const std::string& key, const std::string& json, const std::string& other,
                      const std::string& value) {
    return [=](const Workplace& w) {
      WithConfig(key, json)(w);
      WithConfig(other, value)(w);
    };
  };
  CheckBadInputs({
      {.what = "33 heads that do not divide the width",
       .spoil = two("num_attention_heads", "3", "head_dim", "null"),
       .exit = 3,
       .message = "$W/model: config.json: num_attention_heads=3 does not divide hidden_size=64 and there is "
                  "no head_dim"},
      Config("33 heads that do not share key heads", "num_key_value_heads", "3",
             "model config: num_key_value_heads=3 does not divide num_attention_heads=4"),
      Config("33 no layers", "num_hidden_layers", "0",
             "model config: num_layers=0 is out of range; allowed are 1 to 1024"),
      Config("33 a billion layers", "num_hidden_layers", "1000000000",
             "model config: num_layers=1000000000 is out of range; allowed are 1 to 1024"),
      Config("33 2^63 layers", "num_hidden_layers", "9223372036854775807",
             "model config: num_layers=9223372036854775807 is out of range; allowed are 1 to 1024"),
      Config("33 a negative width", "hidden_size", "-64",
             "model config: hidden_size=-64 is out of range; allowed are 1 to 16777216"),
      Config("33 a width of text", "hidden_size", "\"64\"",
             "config.json: \"hidden_size\" is a string; expected an integer below 2^63"),
      Config("33 a width with a fraction", "hidden_size", "64.5",
             "config.json: \"hidden_size\" is a number with a fraction or exponent; expected an integer "
             "below 2^63"),
      Config("33 a vocabulary of 2^62", "vocab_size", "4611686018427387904",
             "model config: vocab_size=4611686018427387904 is out of range; allowed are 1 to 268435456"),
      Config("33 an unknown RoPE", "rope_scaling", R"({"rope_type":"yarn","factor":8})",
             "config.json: rope: rope type \"yarn\"; supported are default, linear and llama3", 4),
      {.what = "33 a RoPE that is not finite",
       .spoil = [](const Workplace& w) { ReplaceInFile(w.model + "/config.json", ": 8.0", ": 1e999"); },
       .exit = 3,
       .message = "$W/model/config.json: not valid JSON at byte 563: number overflow parsing '1e999'"},
      Config("33 an unknown architecture", "architectures", R"(["MambaForCausalLM"])",
             "config.json: architecture \"MambaForCausalLM\" is not supported (did you mean "
             "\"LlamaForCausalLM\"?); supported are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, "
             "Qwen3ForCausalLM, Gemma3ForCausalLM",
             4),
      Config("33 an activation that is not known", "hidden_act", "\"relu\"",
             "config.json: \"hidden_act\" is \"relu\"; supported are silu and gelu_pytorch_tanh", 4),
      {.what = "33 untied without a head",
       .spoil =
           [](const Workplace& w) {
             ReplaceInFile(w.model + "/model.safetensors", "lm_head.w", "lm_haed.w");
           },
       .exit = 3,
       .message = "$W/model: tensor lm_head.weight [128, 64] is missing"},
      {.what = "33 no JSON",
       .spoil = [](const Workplace& w) { WriteBytes(w.model + "/config.json", "{\"architectures\":"); },
       .exit = 3,
       .message = "$W/model/config.json: not valid JSON at byte 18: syntax error while parsing value - "
                  "unexpected end of input; expected '[', '{', or a literal"},
      Config("34 a shape other than the configuration's", "intermediate_size", "96",
             "model.layers.0.mlp.gate_proj.weight is [80, 64]; the configuration needs [96, 64]"),
      Config("34 a vocabulary other than the embedding's", "vocab_size", "129",
             "model.embed_tokens.weight is [128, 64]; the configuration needs [129, 64]"),
  });
}

// What scan says of a tokenizer; quantize alone does not look into it.
void CheckTokenizer(const char* what, const std::string& from, const std::string& to, int exit,
                    const std::string& message) {
  INFO(what);
  const Workplace w;
  const std::string path = w.model + "/tokenizer.json";
  ReplaceInFile(path, from, to);
  const Finished run =
      RunSpikefold({"scan", w.model, "-o", w / "scan", "--text", w.text}, {.max_memory = uint64_t{1} << 30});
  CHECK(run.exit == exit);
  CHECK(run.err == absl::StrCat("spikefold scan: ", path, message, "\n"));
  CHECK(run.out.empty());
  CHECK(!PathExists(w / "scan"));
}

TEST_CASE("A tokenizer that contradicts itself is refused", "[apps][bad]") {
  CheckTokenizer("35 a merge of unknown tokens", "\"merges\": []", "\"merges\": [\"a zz\"]", 3,
                 ": model.merges[0]: \"a zz\" needs the token \"zz\", which is not in the vocabulary");
  CheckTokenizer("35 a merge without its result", "\"merges\": []", "\"merges\": [\"a b\"]", 3,
                 ": model.merges[0]: \"a b\" needs the token \"ab\", which is not in the vocabulary");
  CheckTokenizer("35 an id twice", "\"b\": 98", "\"b\": 97", 3,
                 ": model.vocab: \"b\" and \"a\" both have id 97");
  CheckTokenizer("35 an id of 2^40", "\"b\": 98", "\"b\": 1099511627776", 3,
                 ": model.vocab: \"b\" has id 1099511627776; expected 0 to 65663");
  CheckTokenizer("35 a negative id", "\"b\": 98", "\"b\": -1", 3,
                 ": model.vocab: \"b\" has id -1; expected 0 to 65663");
  CheckTokenizer("35 a byte that is none", "\"added_tokens\": []",
                 R"("added_tokens": [{"id": 99, "content": "<0x-1>"}])", 3,
                 ": added_tokens[0]: \"<0x-1>\" and \"c\" both have id 99");
  CheckTokenizer("36 an unknown pre-tokenizer", "\"use_regex\": true", "\"use_regex\": 1", 3,
                 ": pre_tokenizer: \"use_regex\" is an integer; expected true or false");
  CheckTokenizer("36 an unknown node type", "\"normalizer\": null", R"("normalizer": {"type": "Foo"})", 4,
                 ": normalizer: type \"Foo\" is not supported; supported: NFC, Prepend, Replace, Sequence");
}

TEST_CASE("A tokenizer of another model is refused where it makes a token that the model lacks",
          "[apps][bad]") {
  const Workplace w;
  ReplaceInFile(w.model + "/tokenizer.json", "\"b\": 98", "\"b\": 300");
  const std::string says =
      ": its tokenizer makes token 300, \"b\", but its embedding has 128 rows; take tokenizer and weights of "
      "one model\n";
  const Finished scan = RunSpikefold({"scan", w.model, "-o", w / "scan", "--text", w.text});
  CHECK(scan.exit == 3);
  CHECK(scan.err == absl::StrCat("spikefold scan: ", w.model, says));
  CHECK(!PathExists(w / "scan"));
  const Finished generate = RunSpikefold({"generate", w.model, "--prompt", "abc"});
  CHECK(generate.exit == 3);
  CHECK(generate.err == absl::StrCat("spikefold generate: ", w.model, says));
  CHECK(generate.out.empty());
  CHECK(RunSpikefold({"generate", w.model, "--prompt", "acid", "--max-tokens", "2"}).exit == 0);
}

TEST_CASE("A pattern that backtracks for ever ends in an error", "[apps][bad]") {
  // Bad input 36: exponential in the length of a run of a's.
  const Workplace w;
  const std::string path = w.model + "/tokenizer.json";
  auto tokenizer = ParseJson(ReadAll(path), path);
  REQUIRE(tokenizer.ok());
  tokenizer->Set("pre_tokenizer", Json::MakeObject()
                                      .Set("type", "Split")
                                      .Set("pattern", Json::MakeObject().Set("Regex", "(a+)+$"))
                                      .Set("behavior", "Isolated")
                                      .Set("invert", false));
  WriteBytes(path, tokenizer->Dump(1));
  WriteBytes(w.text, std::string(100'000, 'a') + "b");
  const Finished run = RunSpikefold({"scan", w.model, "-o", w / "scan", "--text", w.text, "--windows", "2"});
  CHECK(run.exit == 3);
  CHECK(
      run.err ==
      absl::StrCat("spikefold scan: ", path,
                   ": pre_tokenizer: pattern \"(a+)+$\" gives up at byte 0 of 100001 (match limit exceeded); "
                   "use a pattern that does not backtrack without bound\n"));
  CHECK(!PathExists(w / "scan"));
}

}  // namespace
}  // namespace spikefold::testing
