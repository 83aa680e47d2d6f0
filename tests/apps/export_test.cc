// export, as a person uses it.
#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "formats/safetensors_model.h"
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

TEST_CASE("A quantized model becomes a GGUF file of the same codes, and each tensor is reported", "[apps]") {
  const TempDirectory w;
  Succeed({"quantize", SPIKEFOLD_TEST_DATA "/tiny/llama/model.gguf", "-o", w / "q", "--scheme", "w8a16",
           "--rounding", "nearest", "--rotate", "none"});
  const Json document = SucceedJson({"export", w / "q", "--to", "gguf", "-o", w / "q.gguf"});
  int64_t same = 0;
  for (const Json& t : document.Find("tensors")->array()) {
    CHECK(*t.GetDouble("error", "") < 1e-3);
    same += *t.GetBool("same_codes", "") ? 1 : 0;
  }
  CHECK(same > 8);
  const auto file = GgufFile::Open(w / "q.gguf");
  REQUIRE(file.ok());
  CHECK((*file)->FindTensor("blk.0.attn_q.weight")->type == GgmlType::kQ8_0);
  CHECK((*file)->FindTensor("blk.0.ffn_down.weight")->type == GgmlType::kF16);  // K = 80
}

TEST_CASE("A model becomes a compressed-tensors directory whose config names each scheme", "[apps]") {
  const Workplace w;
  for (const char* scheme : {"w4a16", "w8a16", "w8a8"}) {
    INFO(scheme);
    const std::string q = w / (std::string("q-") + scheme), ct = w / (std::string("ct-") + scheme);
    Succeed({"quantize", w.model, "-o", q, "--scheme", scheme, "--rounding", "nearest", "--head-bits", "16",
             "--zero-points", std::string(scheme) == "w8a8" ? "none" : "weights"});
    const Json document = SucceedJson({"export", q, "--to", "compressed-tensors", "-o", ct});
    CHECK(document.Find("tensors")->array().size() > 8);
    const auto config = ParseJson(ReadAll(ct + "/config.json"), "config.json");
    REQUIRE(config.ok());
    const Json& quantization = *config->Find("quantization_config");
    CHECK(*quantization.GetString("format", "") ==
          (std::string(scheme) == "w8a8" ? "int-quantized" : "pack-quantized"));
    const Json& group = *quantization.Find("config_groups")->Find("group_0");
    CHECK(*group.Find("weights")->GetBool("symmetric", "") == (std::string(scheme) == "w8a8"));
    CHECK(group.Find("input_activations")->is_null() == (std::string(scheme) != "w8a8"));
    const auto model = SafetensorsModel::Open(ct);
    REQUIRE(model.ok());
    const std::string module = "model.layers.0.self_attn.q_proj";
    CHECK(((*model)->Find(module + ".weight_packed") != nullptr) == (std::string(scheme) != "w8a8"));
    CHECK((*model)->Find(module + ".weight_scale") != nullptr);
    CHECK(PathExists(ct + "/tokenizer.json"));
  }
}

TEST_CASE("Sites that are coded a token stand in a group of their own, beside the static ones", "[apps]") {
  const Workplace w;
  Succeed({"quantize", w.model, "-o", w / "q", "--scheme", "w8a8-static", "--outliers", "none",
           "--dynamic-sites", "2", "--head-bits", "16", "--text", w.text, "--windows", "4", "--length",
           "64"});
  Succeed({"export", w / "q", "--to", "compressed-tensors", "-o", w / "ct"});
  const auto config = ParseJson(ReadAll(w / "ct" + "/config.json"), "config.json");
  REQUIRE(config.ok());
  const auto model = SafetensorsModel::Open(w / "ct");
  REQUIRE(model.ok());
  size_t dynamic = 0, fixed = 0;
  for (const auto& [name, group] : config->Find("quantization_config")->Find("config_groups")->object()) {
    const Json& inputs = *group.Find("input_activations");
    const bool is_dynamic = *inputs.GetBool("dynamic", "");
    CHECK(*inputs.GetString("strategy", "") == (is_dynamic ? "token" : "tensor"));
    for (const Json& target : group.Find("targets")->array()) {
      const bool has_scale = (*model)->Find(target.string_value() + ".input_scale") != nullptr;
      CHECK(has_scale == !is_dynamic);
      (is_dynamic ? dynamic : fixed) += 1;
    }
  }
  CHECK(dynamic >= 2);
  CHECK(fixed > dynamic);
}

TEST_CASE("As safetensors a quantized model is a float model again", "[apps]") {
  const Workplace w;
  Succeed({"quantize", w.model, "-o", w / "q", "--scheme", "w8a8", "--rounding", "nearest"});
  Succeed({"export", w / "q", "--to", "safetensors", "-o", w / "float"});
  Succeed({"inspect", w / "float"});
  CheckRefused({"export", w / "q", "--to", "safetensors", "-o", w / "float"}, 6,
               absl::StrCat("spikefold export: ", w / "float",
                            ": exists; choose another output, or replace it with --force"));
}

TEST_CASE("Shifts go into biases and trellis codes become their levels, with the same function", "[apps]") {
  const Workplace w;
  const auto ppl = [&](const std::string& model) {
    return *SucceedJson({"eval", model, "--reference", w.model, "--text", w.text, "--context", "64",
                         "--windows", "4"})
                .GetDouble("ppl", "");
  };
  const std::vector<std::vector<std::string>> cases = {{"--scheme", "w8a16", "--shift", "mean"},
                                                       {"--scheme", "w4a16", "--codes", "trellis"}};
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string q = w / absl::StrCat("q", i), out = w / absl::StrCat("out", i);
    std::vector<std::string> arguments = {"quantize",  w.model,      "-o",       q,        "--rotate",
                                          "none",      "--rounding", "nearest",  "--text", w.text,
                                          "--windows", "4",          "--length", "64"};
    arguments.insert(arguments.end(), cases[i].begin(), cases[i].end());
    Succeed(arguments);
    Succeed({"export", q, "--to", "safetensors", "-o", out});
    CHECK(ppl(out) == Approx(ppl(q)).epsilon(2e-3));
  }
}

TEST_CASE("A rescaled model has its epsilon in the config and the same perplexity, exported or quantized",
          "[apps]") {
  const Workplace w;
  const auto ppl = [&](const std::string& model) {
    return *SucceedJson({"eval", model, "--reference", w.model, "--text", w.text, "--context", "64",
                         "--windows", "4"})
                .GetDouble("ppl", "");
  };
  const auto eps = [](const std::string& model) {
    return *ParseJson(ReadAll(model + "/config.json"), "config.json")->GetDouble("rms_norm_eps", "");
  };
  Succeed({"export", w.model, "--to", "safetensors", "-o", w / "plain"});
  Succeed({"export", w.model, "--to", "safetensors", "--rescale", "16", "-o", w / "rescaled"});
  CHECK(eps(w / "rescaled") == Approx(eps(w / "plain") / 256).epsilon(1e-6));
  CHECK(ppl(w / "rescaled") == ppl(w / "plain"));
  for (const char* name : {"q", "q16"}) {
    Succeed({"quantize", w.model, "-o", w / name, "--scheme", "w8a8", "--outliers", "none", "--rotate",
             "none", "--rounding", "nearest", "--rescale", name == std::string("q") ? "1" : "16"});
  }
  CHECK(eps(w / "q16") == eps(w / "rescaled"));
  CHECK(ppl(w / "q16") == ppl(w / "q"));  // the same codes
  const std::vector<std::string> start = {"export", w.model, "--to", "safetensors", "-o", w / "no"};
  const auto refused = [&](const std::vector<std::string>& more, const std::string& message) {
    std::vector<std::string> arguments = start;
    arguments.insert(arguments.end(), more.begin(), more.end());
    CheckRefused(arguments, 2, absl::StrCat("spikefold export: ", message));
    CHECK(!PathExists(w / "no"));
  };
  refused({"--rescale", "3"}, "rescale \"3\": give \"auto\" or a power of two from 1 (none) to 65536");
  refused({"--rescale", "auto"},
          "--rescale auto: takes the residual's peak from a scan; add --scan, or give a power of two");
  refused({"--qk-smooth", "0.5"}, "--qk-smooth: takes the keys' ranges from a scan; add --scan");
  refused({"--scan", w / "q"},
          "--scan: is for --to gguf, --rescale auto and --qk-smooth; safetensors has no such choice");
}

TEST_CASE("Types that are read but not written are refused by name", "[apps]") {
  const TempDirectory w;
  Succeed({"fixture", "-o", w / "m", "--layers", "1"});
  for (const auto& [type, name] : {std::pair{GgmlType::kQ2_K, "Q2_K"}, std::pair{GgmlType::kQ3_K, "Q3_K"}}) {
    const std::string like = w / absl::StrCat(name, ".gguf");
    const GgufWriter::Spec spec{"token_embd.weight", {512, 256}, type};
    const auto writer = GgufWriter::Create(like, GgufMetadata(), {spec});
    REQUIRE(writer.ok());
    REQUIRE((*writer)->Write(spec.name, std::string(spec.bytes(), '\0')).ok());
    REQUIRE((*writer)->Finish().ok());
    CheckRefused({"export", w / "m", "--to", "gguf", "--like", like, "-o", w / "out.gguf"}, 4,
                 absl::StrCat("spikefold export: --like ", like, ": token_embd.weight is ", name,
                              ", which is read but not written; give a file without it, or use --type q4_k"));
    CHECK(!PathExists(w / "out.gguf"));
  }
}

TEST_CASE("Choices of rounding that would be ignored are refused", "[apps]") {
  const TempDirectory w;
  Succeed({"fixture", "-o", w / "m", "--layers", "1"});
  const std::vector<std::string> start = {"export", w / "m", "--to", "gguf", "-o", w / "out.gguf"};
  const auto refused = [&](const std::vector<std::string>& more, const std::string& message) {
    std::vector<std::string> arguments = start;
    arguments.insert(arguments.end(), more.begin(), more.end());
    CheckRefused(arguments, 2, absl::StrCat("spikefold export: ", message));
    CHECK(!PathExists(w / "out.gguf"));
  };
  refused({"--scan", w / "m"}, "--scan: nothing is rounded; add --type q4_0 or another type of blocks");
  for (const char* type : {"f32", "f16", "bf16"}) {
    refused({"--scan", w / "m", "--type", type},
            "--scan: nothing is rounded; add --type q4_0 or another type of blocks");
  }
  refused({"--type", "q4_0", "--like", w / "m"}, "--like and --type both choose types; give one of them");

  WriteBytes(w / "like.gguf", "GGUF");
  const Finished onto =
      RunSpikefold({"export", w / "m", "--to", "gguf", "--like", w / "like.gguf", "-o", w / "like.gguf"});
  CHECK(onto.exit == 2);
  CHECK(ReadAll(w / "like.gguf") == "GGUF");
}

TEST_CASE("An export that cannot be leaves nothing behind and says what to do", "[apps]") {
  const Workplace w;
  Succeed({"quantize", w.model, "-o", w / "q", "--scheme", "w8a8", "--rounding", "nearest", "--rotate",
           "online"});
  for (const char* format : {"gguf", "compressed-tensors", "safetensors"}) {
    const Finished run = RunSpikefold({"export", w / "q", "--to", format, "-o", w / "out"});
    CHECK(run.exit == 4);
    CHECK(run.err.find("--rotate offline") != std::string::npos);
    CHECK(!PathExists(w / "out"));
  }
  CHECK(RunSpikefold({"export", w.model, "--to", "ggml", "-o", w / "out"}).exit == 2);
  CHECK(RunSpikefold({"export", w.model, "--to", "safetensors", "--type", "q8_0", "-o", w / "out"}).exit ==
        2);
}

}  // namespace
}  // namespace spikefold::testing
