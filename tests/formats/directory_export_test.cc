// compressed-tensors, GPTQ and plain safetensors: codes of other tools' libraries go through a native
// checkpoint and come out as these libraries wrote them, and the importers read them back.
#include "formats/export/directory_export.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/base/file.h"
#include "formats/export/gptq_export.h"
#include "formats/safetensors_model.h"
#include "tests/formats/export_kit.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using namespace export_kit;
using absl::StatusCode;
using testing::Fails;
using testing::TempDirectory;

constexpr char kLayer[] = "model.layers.0.";
std::string Module(const char* name) { return absl::StrCat(kLayer, name); }
bool Is(const QuantizedLinear& q, const char* name) { return absl::EndsWith(q.module, name); }

Json ConfigOf(const std::string& path) {
  const auto text = ReadFileToString(path + "/config.json", 1 << 20);
  REQUIRE(text.ok());
  return *ParseJson(*text, path);
}

// A tensor as float32 values, or as bytes in which 8-bit codes of `lowest` are one more: -128, which
// symmetric codes of ours leave out.
std::string BytesOf(const Tensor& tensor, bool raise_lowest, char lowest) {
  if (IsFloat(tensor.dtype())) {
    const Tensor values = ToF32(tensor.view());
    return {static_cast<const char*>(values.data()), static_cast<size_t>(values.num_bytes())};
  }
  std::string bytes(static_cast<const char*>(tensor.data()), static_cast<size_t>(tensor.num_bytes()));
  for (char& byte : bytes) byte = static_cast<char>(byte + (raise_lowest && byte == lowest ? 1 : 0));
  return bytes;
}

TEST_CASE("Codes of compressed-tensors come out of an export as its library packed them",
          "[export][directory]") {
  for (const std::string name : {"ct_w4", "ct_mixed"}) {
    INFO(name);
    const TempDirectory directory;
    const auto source = NativeOfForeign(name, directory / "native");
    const auto report = ExportDirectory(*source, directory / "out", {.compressed_tensors = true});
    REQUIRE(report.status() == absl::OkStatus());
    const auto ours = SafetensorsModel::Open(directory / "out");
    REQUIRE(ours.ok());
    const auto original = SafetensorsModel::Open(ForeignFixture(name));
    REQUIRE(original.ok());
    size_t expected = 0;
    for (const SafetensorsEntry* entry : (*original)->entries()) {
      INFO(entry->name);
      ++expected;
      REQUIRE((*ours)->Find(entry->name) != nullptr);
      const Tensor a = *(*original)->Read(entry->name), b = *(*ours)->Read(entry->name);
      CHECK(a.shape() == b.shape());
      if (b.dtype() == DType::kBF16) {  // what is not quantized, in the model's type
        CHECK(RelativeError(ToF32(a.view()).as<float>(), ToF32(b.view()).as<float>()) < 0.003);
        continue;
      }
      const bool codes = name == "ct_mixed" && (a.dtype() == DType::kI8 || a.dtype() == DType::kI32);
      const char lowest = a.dtype() == DType::kI8 ? '\x80' : '\0';
      CHECK((BytesOf(a, codes, lowest) == BytesOf(b, false, 0)));
    }
    CHECK((*ours)->entries().size() == expected);

    const Json wanted = *ConfigOf(ForeignFixture(name)).Find("quantization_config");
    const Json written = *ConfigOf(directory / "out").Find("quantization_config");
    CHECK(written.Find("format")->Dump() == wanted.Find("format")->Dump());
    int alike = 0;
    for (const auto& [key, group] : wanted.Find("config_groups")->object()) {
      for (const auto& [other, mine] : written.Find("config_groups")->object()) {
        bool same = true;
        for (const char* part : {"weights", "input_activations"}) {
          const Json* args = group.Find(part);
          if (args == nullptr) continue;
          for (const auto& [arg, value] : args->object()) {
            const Json* mine_value = mine.Find(part)->is_null() ? nullptr : mine.Find(part)->Find(arg);
            same = same && mine_value != nullptr && mine_value->Dump() == value.Dump();
          }
        }
        alike += same ? 1 : 0;
      }
    }
    CHECK(alike >= static_cast<int>(wanted.Find("config_groups")->object().size()));

    const auto reader = CheckpointReader::Open(directory / "out");
    REQUIRE(reader.status() == absl::OkStatus());
    if (name == "ct_w4") {
      CheckSameValues(*source, **reader);
    } else {
      CheckSameValues(*source, **reader, {"model.embed_tokens", "lm_head", Module("mlp.down_proj")});
    }
  }
}

TEST_CASE("Codes of GPTQ come out of an export as AutoGPTQ packed them", "[export][gptq_export]") {
  for (const std::string name : {"gptq", "gptq_v2"}) {
    INFO(name);
    const TempDirectory directory;
    const auto source = NativeOfForeign(name, directory / "native");
    const auto report = ExportGptq(*source, directory / "out", {.v2 = name == "gptq_v2"});
    REQUIRE(report.status() == absl::OkStatus());
    const auto ours = SafetensorsModel::Open(directory / "out");
    const auto original = SafetensorsModel::Open(ForeignFixture(name));
    REQUIRE(ours.ok());
    REQUIRE(original.ok());
    int packed = 0;
    for (const SafetensorsEntry* entry : (*original)->entries()) {
      INFO(entry->name);
      if (absl::EndsWith(entry->name, ".bias")) continue;  // zeros, which the architecture has no place for
      REQUIRE((*ours)->Find(entry->name) != nullptr);
      // The 4-bit fixture has its columns in order of activation, ours are in order of their groups.
      const bool moved = name == "gptq" &&
                         (absl::EndsWith(entry->name, ".qweight") || absl::EndsWith(entry->name, ".g_idx"));
      if (moved) continue;
      const Tensor a = *(*original)->Read(entry->name), b = *(*ours)->Read(entry->name);
      CHECK(a.shape() == b.shape());
      CHECK((BytesOf(a, false, 0) == BytesOf(b, false, 0)));
      packed += a.dtype() == DType::kI32 ? 1 : 0;
    }
    CHECK(packed == (name == "gptq" ? 7 : 21));
    const Json wanted = *ConfigOf(ForeignFixture(name)).Find("quantization_config");
    const Json written = *ConfigOf(directory / "out").Find("quantization_config");
    for (const auto& [key, value] : wanted.object()) {
      INFO(key);
      CHECK(written.Find(key)->Dump() == (key == "desc_act" ? "false" : value.Dump()));
    }
    const auto reader = CheckpointReader::Open(directory / "out");
    REQUIRE(reader.status() == absl::OkStatus());
    CheckSameValues(*source, **reader);
    CHECK(TensorOf(*report, Module("mlp.up_proj")).same_codes);
  }
}

TEST_CASE("Formats that differ from linear to linear keep their codes, or say why not",
          "[export][directory]") {
  const testing::TinyModel tiny = testing::MakeTinyModel(
      {.hidden = 64, .intermediate = 96, .num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim = 32});
  const TempDirectory directory;
  const auto source = Native(*tiny.checkpoint, directory / "native", [](QuantizedLinear& q) {
    if (Is(q, "q_proj")) RandomCodes(q, {.bits = 2, .grouped = true}, 32);
    if (Is(q, "k_proj")) RandomCodes(q, {.bits = 3, .grouped = true, .symmetric = false}, 16);
    if (Is(q, "v_proj")) RandomCodes(q, {.bits = 8, .grouped = true, .symmetric = false}, 32);
    if (Is(q, "o_proj")) RandomCodes(q, {.bits = 4, .symmetric = false});
    if (Is(q, "gate_proj")) RandomCodes(q, WeightFormat::kS4g, 32), KeepColumns(q, {3, 40});
    if (Is(q, "up_proj")) RandomCodes(q, WeightFormat::kS8c), KeepWeight(q, 5, 7, 8.5f);
    if (Is(q, "down_proj")) RandomCodes(q, {.bits = 4, .trellis = true});
  });
  const auto report = ExportDirectory(*source, directory / "ct", {.compressed_tensors = true});
  REQUIRE(report.status() == absl::OkStatus());
  const auto reader = CheckpointReader::Open(directory / "ct");
  REQUIRE(reader.status() == absl::OkStatus());
  const std::vector<std::string> rounded = {"model.embed_tokens", "lm_head"};
  // Kept values are bfloat16 in ours and values of both lie on few bits, so that float16 holds them.
  CheckSameValues(*source, **reader, rounded);
  const auto of = [&](const char* module) { return TensorOf(*report, Module(module)); };
  CHECK(of("self_attn.q_proj").reason ==
        "2-bit codes take 4 bits: packing of fewer differs between versions");
  CHECK(of("self_attn.k_proj").reason ==
        "3-bit codes take 4 bits: packing of fewer differs between versions");
  CHECK(of("self_attn.v_proj").to == "u8g32");
  CHECK(of("self_attn.v_proj").same_codes);
  CHECK(of("mlp.gate_proj").reason ==
        "2 kept columns and 0 super weights have no place beside codes: the linear is 16 bit");
  CHECK(of("mlp.up_proj").to == "F16");
  CHECK(!of("mlp.up_proj").same_codes);
  CHECK(of("mlp.down_proj").to == "s8c");  // the levels of the trellis are INT8 codes
  const Json ignored = *ConfigOf(directory / "ct").Find("quantization_config")->Find("ignore");
  CHECK(ignored.Dump() == "[\"model.layers.0.mlp.gate_proj\",\"model.layers.0.mlp.up_proj\",\"lm_head\"]");

  // The report as a document says the same.
  const Json document = ExportReportToJson(*report);
  CHECK(document.Find("format")->string_value() == "compressed-tensors");
  REQUIRE(document.Find("tensors")->array().size() == report->tensors.size());
  for (size_t i = 0; i < report->tensors.size(); ++i) {
    const Json& line = document.Find("tensors")->array()[i];
    CHECK(line.Find("name")->string_value() == report->tensors[i].name);
    CHECK((line.Find("reason") != nullptr) == !report->tensors[i].reason.empty());
    CHECK(line.Find("bytes")->int_value() == static_cast<int64_t>(report->tensors[i].bytes));
  }

  const auto gptq = ExportGptq(*source, directory / "gptq", {.v2 = true});
  REQUIRE(gptq.status() == absl::OkStatus());
  const auto again = CheckpointReader::Open(directory / "gptq");
  REQUIRE(again.status() == absl::OkStatus());
  CheckSameValues(*source, **again, rounded);
  const Json dynamic = *ConfigOf(directory / "gptq").Find("quantization_config")->Find("dynamic");
  const auto rule = [&](const char* module) {
    return dynamic.Find(
        absl::StrCat(module[0] == '-' ? "-" : "+", ":^model\\.layers\\.0\\.", module + 1, "$"));
  };
  REQUIRE(rule("-mlp\\.gate_proj") != nullptr);
  REQUIRE(rule("+self_attn\\.k_proj") != nullptr);
  CHECK(rule("+self_attn\\.k_proj")->Dump() == "{\"bits\":4,\"group_size\":16}");
}

TEST_CASE("What only the native format holds is named as a loss", "[export][directory]") {
  const testing::TinyModel tiny = testing::MakeTinyModel(
      {.hidden = 64, .intermediate = 64, .num_layers = 1, .num_heads = 2, .num_kv_heads = 1, .head_dim = 32});
  const TempDirectory directory;
  NativeExtras extras;
  std::vector<float> taken_off(64);
  for (size_t i = 0; i < taken_off.size(); ++i) taken_off[i] = static_cast<float>(i % 5) / 4 - 0.5f;
  extras.info = [&](NativeInfo& info) {
    info.prefix = {.num_tokens = 2,
                   .kind = "tokens",
                   .changes_function = true,
                   .layers = {0},
                   .num_kv_heads = 1,
                   .head_dim = 32};
    info.kv.k_bits = info.kv.v_bits = 8;
    info.rotations = {{"R3", RotationPlace::kQueriesKeys, {32}, std::vector<int8_t>(32, -1), {}}};
    info.shifts = {{"layers.0.ffn_in", taken_off}};
  };
  extras.prefix.ids = {3, 5};
  extras.prefix.k.emplace_back(DType::kBF16, Shape{1, 2, 32});
  extras.prefix.v.emplace_back(DType::kBF16, Shape{1, 2, 32});
  const auto source = Native(
      *tiny.checkpoint, directory / "native",
      [](QuantizedLinear& q) {
        if (q.module == "lm_head") return;
        RandomCodes(q, WeightFormat::kS8c);
        q.act = ActivationFormat::kS8Static;
        q.input_scale = 0.03125f;
        if (Is(q, "down_proj")) q.spike_threshold = 50;
        if (!Is(q, "gate_proj") && !Is(q, "up_proj")) return;
        q.has_bias = true;
        for (int64_t i = 0; i < q.n; ++i) q.bias.push_back(static_cast<float>(i % 7) / 8);
      },
      extras);
  const auto report = ExportDirectory(*source, directory / "ct", {.compressed_tensors = true});
  REQUIRE(report.status() == absl::OkStatus());
  CHECK(LossOf(*report, "prefix").changes_function);
  CHECK(LossOf(*report, "prefix").detail ==
        "the 2 prefix token(s) (ids 3 5) are dropped: put them before each prompt to have the same function");
  CHECK(!LossOf(*report, "keys and values").changes_function);
  CHECK_THAT(LossOf(*report, "rotation").detail, Catch::StartsWith("R3 of queries and keys is left out"));
  CHECK_THAT(LossOf(*report, "shifts").detail,
             Catch::StartsWith("what is taken off the inputs of 1 sites went"));
  CHECK(LossOf(*report, "spike rows").detail == "1 linears no longer compute spike tokens in float");
  CHECK(LossOf(*report, "static scales").changes_function);
  CHECK_THAT(LossOf(*report, "tokenizer").detail, Catch::Contains("there is no tokenizer.json"));

  // W (x - s) + b = W x + (b - W s), and where one linear of the FFN has a bias the layout wants all three.
  const Json config = ConfigOf(directory / "ct");
  CHECK(config.Find("mlp_bias")->bool_value());
  const auto files = SafetensorsModel::Open(directory / "ct");
  REQUIRE(files.ok());
  const Tensor down = *(*files)->Read(Module("mlp.down_proj.bias"));
  for (const float b : down.as<float>()) CHECK(b == 0);
  const auto reader = CheckpointReader::Open(directory / "ct");
  REQUIRE(reader.status() == absl::OkStatus());
  const Tensor weight = *(*reader)->ReadF32(Module("mlp.up_proj.weight"));
  const Tensor bias = *(*reader)->ReadF32(Module("mlp.up_proj.bias"));
  for (size_t row = 0; row < 64; ++row) {
    double expected = static_cast<double>(row % 7) / 8;
    for (size_t i = 0; i < 64; ++i) {
      expected -= static_cast<double>(weight.as<float>()[row * 64 + i]) * static_cast<double>(taken_off[i]);
    }
    CHECK(static_cast<double>(bias.as<float>()[row]) == Approx(expected).epsilon(1e-5).margin(1e-5));
  }

  // Values alone: no engine codes activations, so no scale of theirs can be wrong.
  const auto plain = ExportDirectory(*source, directory / "plain", {});
  REQUIRE(plain.status() == absl::OkStatus());
  CHECK(!HasLoss(*plain, "static scales"));
  CHECK(LossOf(*plain, "activations").detail ==
        "7 linears whose weights are 16 bit here read float activations, not codes");
}

TEST_CASE("A float model is written in bfloat16, rounded to nearest", "[export][directory]") {
  for (const char* name : {"llama", "llama_bias", "mistral", "qwen2", "qwen3", "gemma3"}) {
    INFO(name);
    const TempDirectory directory;
    const std::string path = absl::StrCat(SPIKEFOLD_TEST_DATA "/tiny/", name);
    const auto source = ExportSource::Open(path);
    REQUIRE(source.ok());
    const auto report = ExportDirectory(**source, directory / "out", {});
    REQUIRE(report.status() == absl::OkStatus());
    CHECK(report->losses.size() == 1);  // the fixtures have no tokenizer
    const auto before = CheckpointReader::Open(path), after = CheckpointReader::Open(directory / "out");
    REQUIRE(after.status() == absl::OkStatus());
    CHECK((*before)->graph().config == (*after)->graph().config);
    CHECK(ConfigOf(directory / "out").Find("torch_dtype")->string_value() == "bfloat16");
    for (const StoredTensor& t : (*before)->tensors()) {
      INFO(t.name);
      const Tensor a = *(*before)->ReadF32(t.name), b = *(*after)->ReadF32(t.name);
      const bool narrow = a.shape().size() == 2;
      int64_t differ = 0;
      for (size_t i = 0; i < static_cast<size_t>(a.num_elements()); ++i) {
        const float value = a.as<float>()[i];
        differ += b.as<float>()[i] == (narrow ? Bf16ToFloat(FloatToBf16(value)) : value) ? 0 : 1;
      }
      CHECK(differ == 0);
    }
  }
}

TEST_CASE("Exports that cannot be are refused by name and leave nothing", "[export][directory]") {
  const TempDirectory directory;
  const std::string out = directory / "out";
  const auto base = [](const char* family) {
    return *CheckpointReader::Open(absl::StrCat(SPIKEFOLD_TEST_DATA "/tiny/", family));
  };
  const auto bias_on = [&](const char* family, const char* module) {
    const std::string path = directory / absl::StrCat(family, module);
    return Native(*base(family), path, [&](QuantizedLinear& q) {
      if (q.module == "lm_head") return;
      RandomCodes(q, WeightFormat::kS8c);
      if (!Is(q, module) || q.has_bias) return;
      q.has_bias = true;
      q.bias.assign(static_cast<size_t>(q.n), 0.5f);
    });
  };
  const auto refused = [&](const ExportSource& source, const std::string& message) {
    for (const bool ct : {true, false}) {
      CHECK_THAT(ExportDirectory(source, out, {.compressed_tensors = ct}).status(),
                 Fails(StatusCode::kUnimplemented, message));
    }
    CHECK(!PathExists(out));
  };
  refused(*bias_on("mistral", "q_proj"),
          "model.layers.0.self_attn.q_proj has a bias, for which MistralForCausalLM has no place");
  refused(*bias_on("qwen2", "o_proj"),
          "model.layers.0.self_attn.o_proj has a bias, for which Qwen2ForCausalLM has no place");
  refused(*bias_on("gemma3", "up_proj"), "up_proj has a bias, for which Gemma3ForCausalLM has no place");
  CHECK_THAT(ExportGptq(*bias_on("llama", "down_proj"), out, {}).status(),
             Fails(StatusCode::kUnimplemented, "down_proj has a bias; export it to compressed-tensors"));

  NativeExtras online;
  online.info = [](NativeInfo& info) {
    info.rotations = {{"R4", RotationPlace::kDownIn, {64}, std::vector<int8_t>(64, 1), {}}};
  };
  const auto rotated = Native(
      **CheckpointReader::Open(ForeignFixture("gptq")), directory / "rotated",
      [](QuantizedLinear& q) {
        if (q.module != "lm_head") RandomCodes(q, WeightFormat::kS8c);
      },
      online);
  refused(*rotated, "rotation R4 turns the inputs of down_proj while the model runs");
  CHECK_THAT(ExportGptq(*rotated, out, {}).status(),
             Fails(StatusCode::kUnimplemented, "which GPTQ cannot say"));

  // The lowest code as a zero point: "gptq" stores it less 1.
  const auto lowest =
      Native(**CheckpointReader::Open(ForeignFixture("gptq")), directory / "lowest", [](QuantizedLinear& q) {
        RandomCodes(q, {.bits = 4, .grouped = true, .symmetric = false}, 16);
        q.zeros[5] = -8;
      });
  CHECK_THAT(ExportGptq(*lowest, out, {}).status(),
             Fails(StatusCode::kUnimplemented, "which \"gptq\" stores as -1; use gptq_v2"));
  CHECK(ExportGptq(*lowest, directory / "v2", {.v2 = true}).ok());
  // Scales that float16 cannot hold, and float weights.
  for (const bool codes : {true, false}) {
    const auto large = Native(**CheckpointReader::Open(ForeignFixture("gptq")),
                              directory / absl::StrCat("large", codes), [&](QuantizedLinear& q) {
                                const bool head = q.module == "lm_head";
                                if (!head) RandomCodes(q, WeightFormat::kS8c);
                                if (!head && codes) q.scales[3] = 1e5f;
                                if (head && !codes) q.float_weight.as<float>()[3] = -1e5f;
                              });
    CHECK_THAT(ExportGptq(*large, out, {}).status(),
               Fails(StatusCode::kUnimplemented,
                     absl::StrCat(codes ? "q_proj.weight as GPTQ 8 bits" : "lm_head.weight as F16",
                                  " differs by inf of its size; its values do not fit float16")));
  }
  CHECK(!PathExists(out));
}

TEST_CASE("An export that is stopped, or whose output is there, changes nothing", "[export][directory]") {
  const TempDirectory directory;
  const auto source = NativeOfForeign("ct_w4", directory / "native");
  const std::string out = directory / "out";
  for (const std::string stage : {"writing tensors", "reading back"}) {
    const auto stop = [&](absl::string_view at, int64_t done, int64_t) { return at != stage || done < 3; };
    CHECK_THAT(ExportDirectory(*source, out, {.compressed_tensors = true, .progress = stop}).status(),
               Fails(StatusCode::kCancelled, "export: interrupted"));
    CHECK_THAT(ExportGptq(*source, out, {.v2 = true, .progress = stop}).status(),
               Fails(StatusCode::kCancelled, "export: interrupted"));
    CHECK(*ListDirectory(directory.path()) == std::vector<std::string>{"native"});
  }
  REQUIRE(ExportDirectory(*source, out, {.compressed_tensors = true}).ok());
  const auto before = ReadFileToString(out + "/config.json", 1 << 20);
  CHECK_THAT(ExportGptq(*source, out, {.v2 = true}).status(),
             Fails(StatusCode::kAlreadyExists, "out: exists"));
  CHECK(*ReadFileToString(out + "/config.json", 1 << 20) == *before);
  CHECK(ExportGptq(*source, out, {.v2 = true, .overwrite = true}).ok());
  CHECK(*ReadFileToString(out + "/config.json", 1 << 20) != *before);
}

}  // namespace
}  // namespace spikefold
