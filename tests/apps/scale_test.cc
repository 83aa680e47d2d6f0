// A model in parts, by several processes; memory that is foreseen, and refused.
#include <filesystem>
#include <thread>

#include "formats/base/hash.h"
#include "formats/quantized/native_parts.h"
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

struct ScaleWorkplace : Workplace {
  ScaleWorkplace() {
    WritePlantedModel(planted);
    Succeed({"scan", planted, "-o", scan, "--text", text, "--windows", "4", "--length", "64"});
  }
  Args Quantize(const Args& recipe, const Args& more) const {
    return With(With({"quantize", planted, "--scan", scan}, recipe), more);
  }
  std::string Part(int i) const { return directory / absl::StrCat("part-", i); }
  Args Shard(const Args& recipe, int i, int n, const Args& more = {}) const {
    return With(Quantize(recipe, {"-o", Part(i), "--shard", absl::StrCat(i, "/", n)}), more);
  }
  const std::string planted = directory / "planted", scan = directory / "scan";
};

// The same content in other bytes, with a manifest that says so. From another plan, if that is given.
void RewriteSidecar(const std::string& part, const std::string& plan_sha256 = "") {
  std::string sidecar = ReadAll(part + "/spikefold.json"), manifest = ReadAll(part + "/manifest.json");
  const std::string old_hash = Sha256Hex(sidecar), old_bytes = absl::StrCat(sidecar.size(), ",");
  sidecar += "\n";
  if (!plan_sha256.empty()) {
    const std::string key = "\"plan_sha256\": \"";
    sidecar.replace(sidecar.find(key) + key.size(), plan_sha256.size(), plan_sha256);
  }
  const size_t entry = manifest.find("\"spikefold.json\"");
  manifest.replace(manifest.find(old_bytes, entry), old_bytes.size(), absl::StrCat(sidecar.size(), ","));
  manifest.replace(manifest.find(old_hash, entry), old_hash.size(), Sha256Hex(sidecar));
  manifest.resize(manifest.rfind(",\n  \"self_sha256\""));
  WriteBytes(part + "/spikefold.json", sidecar);
  WriteBytes(part + "/manifest.json", SealManifest(manifest + "\n}\n"));
}

TEST_CASE("Parts that several processes write at once become the bytes of one run", "[apps][scale]") {
  const ScaleWorkplace w;
  // Kept columns, key scales, rotations with their signs, shifts, float linears.
  const std::vector<Args> recipes = {
      {"--scheme", "w8a8", "--rounding", "nearest"},
      {"--scheme", "w4a16", "--rounding", "nearest", "--outliers", "keep", "--keep-columns", "4", "--kv",
       "4"},
      {"--scheme", "w4a4-group", "--rounding", "nearest", "--rotate", "online", "--shift", "mean"},
      {"--scheme", "w8a8-static", "--rounding", "nearest", "--keep", "*.layers.1.mlp.down_proj"}};
  for (const Args& recipe : recipes) {
    CAPTURE(recipe);
    Succeed(w.Quantize(recipe, {"-o", w / "whole", "--force"}));
    constexpr int kParts = 3;
    std::vector<Finished> runs(kParts);
    std::vector<std::thread> processes;
    processes.reserve(kParts);
    for (int i = 0; i < kParts; ++i) {
      processes.emplace_back([&, i] {
        runs[static_cast<size_t>(i)] = RunSpikefold(w.Shard(recipe, i + 1, kParts, {"--force"}));
      });
    }
    for (std::thread& process : processes) process.join();
    for (const Finished& run : runs) {
      INFO(run.err);
      REQUIRE(run.exit == 0);
    }
    Succeed({"merge", w.Part(3), w.Part(1), w.Part(2), "-o", w / "merged", "--force"});
    CHECK((AllBytes(w / "merged") == AllBytes(w / "whole")));
    Succeed({"verify", w / "merged"});
    std::filesystem::remove_all(w / "whole");
    for (int i = 1; i <= kParts; ++i) std::filesystem::remove_all(w.Part(i));
  }
}

TEST_CASE("GPTQ goes from part to part, to the bytes of one run", "[apps][scale]") {
  const ScaleWorkplace w;
  const Args recipe = {"--scheme", "w4a16"};
  Succeed(w.Quantize(recipe, {"-o", w / "whole"}));
  Succeed(w.Shard(recipe, 1, 3));
  const Finished alone = RunSpikefold(w.Shard(recipe, 2, 3));
  CHECK(alone.exit == 2);
  CHECK(alone.err.find("shard 2/3: GPTQ rounds each layer on what the ones before it hand over, and ") !=
        std::string::npos);
  CHECK(alone.err.find("write shard 1/3 first and give the parts of all before this one by --after") !=
        std::string::npos);
  CHECK(!PathExists(w.Part(2)));
  Succeed(w.Shard(recipe, 2, 3, {"--after", w.Part(1)}));
  const Finished itself = RunSpikefold(w.Shard(recipe, 2, 3, {"--after", w.Part(1), w.Part(2), "--force"}));
  CHECK(itself.exit == 2);
  CHECK(itself.err.find("part 2 of 3: is not before shard 2/3") != std::string::npos);
  Succeed(w.Shard(recipe, 3, 3, {"--after", w.Part(1), w.Part(2)}));
  Succeed({"merge", w.Part(1), w.Part(2), w.Part(3), "-o", w / "merged"});
  CHECK((AllBytes(w / "merged") == AllBytes(w / "whole")));
  // An earlier part that was written again is no longer what the later ones rest on.
  RewriteSidecar(w.Part(1));
  CheckRefused(
      {"merge", w.Part(1), w.Part(2), w.Part(3), "-o", w / "again"}, 2,
      absl::StrCat("spikefold merge: ", w.Part(2),
                   ": part 2 of 3, was rounded behind a part that is not among these; write it again, "
                   "with --after the parts that are"));
  Succeed(w.Shard(recipe, 1, 3, {"--force", "--isa", "plain"}));
  const Finished plain = RunSpikefold({"merge", w.Part(1), w.Part(2), w.Part(3), "-o", w / "again"});
  CHECK(plain.exit == 2);
  CHECK(plain.err.find(" plain; write all by one") != std::string::npos);
  CHECK(!PathExists(w / "again"));
  const Finished behind_plain = RunSpikefold(w.Shard(recipe, 2, 3, {"--after", w.Part(1), "--force"}));
  CHECK(behind_plain.exit == 2);
  CHECK(behind_plain.err.find("part 1 of 3: was made by ") != std::string::npos);
  CHECK(behind_plain.err.find(" fused; write all by one") != std::string::npos);
  const Finished other =
      RunSpikefold(w.Shard({"--scheme", "w3a16"}, 2, 3, {"--after", w.Part(1), "--force"}));
  CHECK(other.exit == 2);
  CHECK(other.err.find("part 1 of 3: was written from another plan") != std::string::npos);
  // One that says it were of this plan is read as what the plan says, or not at all.
  const std::string hash =
      *ParseJson(ReadAll(w.Part(2) + "/spikefold.json"), "2")->GetString("plan_sha256", "");
  Succeed(w.Shard({"--scheme", "w3a16"}, 1, 3, {"--force"}));
  RewriteSidecar(w.Part(1), hash);
  const Finished forged = RunSpikefold(w.Shard(recipe, 2, 3, {"--after", w.Part(1), "--force"}));
  CAPTURE(forged.err);
  CHECK(forged.exit == 3);
  CHECK(forged.err.find("is not as the plan says; write the part again") != std::string::npos);
}

TEST_CASE("Parts that do not belong together are no model", "[apps][scale]") {
  const ScaleWorkplace w;
  const Args recipe = {"--scheme", "w8a16", "--rounding", "nearest"};
  Succeed(w.Shard(recipe, 1, 2));
  Succeed(w.Shard(recipe, 2, 2));
  const auto refused = [&](const Args& parts, int exit, const std::string& line) {
    CheckRefused(With({"merge", "-o", w / "merged"}, parts), exit, "spikefold merge: " + line);
    CHECK(!PathExists(w / "merged"));
  };
  refused({w.Part(2)}, 2, "part 1 of 2 is missing, 1 are given; write it by quantize --shard 1/2");
  refused({w.Part(1), w.Part(2), w.Part(1)}, 2,
          absl::StrCat(w.Part(1), " and ", w.Part(1), ": both are part 1 of 2; give each part once"));
  Succeed(With(w.Quantize({"--scheme", "w8a8", "--rounding", "nearest"}, {}),
               {"-o", w / "foreign", "--shard", "2/2"}));
  refused(
      {w.Part(1), w / "foreign"}, 2,
      absl::StrCat(w / "foreign", ": part 2 of 2, is of another model, plan, calibration or version than ",
                   w.Part(1), ", part 1 of 2; give parts of one model"));
  refused({w.model}, 3, absl::StrCat(w.model, "/config.json: has no quantization_config"));
  // A part is no model by itself.
  const Finished read = RunSpikefold({"inspect", w.Part(1)});
  CHECK(read.exit == 4);
  CHECK(read.err.find(absl::StrCat(w.Part(1),
                                   ": is a part of a quantized model; put all together by "
                                   "spikefold merge")) != std::string::npos);
  // One bit.
  std::string weights = ReadAll(w.Part(2) + "/model.safetensors");
  weights[weights.size() - 100] = static_cast<char>(weights[weights.size() - 100] ^ 1);
  WriteBytes(w.Part(2) + "/model.safetensors", weights);
  const Finished bad = RunSpikefold({"merge", w.Part(1), w.Part(2), "-o", w / "merged"});
  CHECK(bad.exit == 3);
  CHECK(bad.err.find("/manifest.json: model.safetensors has SHA-256 ") != std::string::npos);
  CHECK(!PathExists(w / "merged"));
}

TEST_CASE("A shard that cannot be is refused before the work", "[apps][scale]") {
  const ScaleWorkplace w;
  for (const char* shard : {"0/2", "3/2", "2", "a/b", "1/2/3"}) {
    CheckRefused(w.Quantize({"--scheme", "w8a16"}, {"-o", w / "q", "--shard", shard}), 2,
                 absl::StrCat("spikefold quantize: --shard: \"", shard,
                              "\" is not I/N with I from 1 to N, as in 2/4"));
  }
  const Finished many = RunSpikefold(
      w.Quantize({"--scheme", "w8a16", "--rounding", "nearest"}, {"-o", w / "q", "--shard", "1/1000"}));
  CHECK(many.exit == 2);
  CHECK(many.err.find("layers; split it into 1/n to n/n, n at most that") != std::string::npos);
  const Finished scanless =
      RunSpikefold({"quantize", w.planted, "--scheme", "w4a16", "-o", w / "q", "--shard", "1/2"});
  CHECK(scanless.exit == 2);
  CHECK(scanless.err.find("--shard: this recipe needs a scan, and all shards the same one") !=
        std::string::npos);
}

// Foreseen and measured, which must be near each other.
void CheckForecast(const Args& quantize, const std::string& out) {
  CAPTURE(quantize);
  const Json dry = *SucceedJson(With(quantize, {"--dry-run"})).Find("forecast");
  CHECK(!PathExists(out));
  const Json document = SucceedJson(With(quantize, {"-o", out}));
  const auto number = [](const Json& j, const char* key) { return static_cast<double>(*j.GetInt(key, key)); };
  CHECK(number(dry, "file_bytes") == number(document, "file_bytes"));
  CHECK(number(dry, "file_bytes") ==
        static_cast<double>(std::filesystem::file_size(out + "/model.safetensors")));
  if (!kSanitized) CHECK(number(dry, "peak_memory") == Approx(number(document, "peak_memory")).epsilon(0.05));
}

TEST_CASE("What will be written is foreseen exactly, and the memory within 5 %", "[apps][scale]") {
  const Workplace w;
  Succeed({"fixture", "--shape", "smollm2", "--layers", "3", "-o", w / "small"});
  Succeed({"scan", w / "small", "-o", w / "scan", "--text", w.text, "--windows", "8", "--length", "256",
           "--no-prefix"});
  const Args plain = {"--outliers", "none", "--rotate", "none"};
  CheckForecast({"quantize", w.model, "--scheme", "w8a16"}, w / "tiny");
  CheckForecast({"quantize", w / "small", "--scheme", "w8a16", "--head-bits", "16"}, w / "q8");
  CheckForecast(With({"quantize", w / "small", "--scheme", "w4a16", "--scan", w / "scan"}, plain), w / "q4");
  // Matrices that are turned on both sides are float64 meanwhile; paths of a trellis are rounded in panels.
  WriteModel({.hidden = 512, .intermediate = 8192, .num_layers = 1}, w / "wide");
  const Args turned = {"quantize", w / "wide", "--rounding", "nearest",
                       "--rotate", "offline",  "--threads",  "2"};
  CheckForecast(With(turned, {"--scheme", "w8a16"}), w / "turned");
  CheckForecast(With(turned, {"--scheme", "w4a16", "--codes", "trellis"}), w / "paths");
}

TEST_CASE("What does not fit into --max-memory is refused with what would fit", "[apps][scale]") {
  if (kSanitized) return;
  const Workplace w;
  Succeed({"fixture", "--shape", "smollm2", "--layers", "2", "-o", w / "small"});
  Succeed({"scan", w / "small", "-o", w / "scan", "--text", w.text, "--windows", "16", "--length", "256",
           "--no-prefix"});
  const Args gptq = {"quantize", w / "small", "--scheme",   "w4a16", "--scan",   w / "scan",
                     "-o",       w / "q",     "--outliers", "none",  "--rotate", "none"};
  const Finished some = RunSpikefold(With(gptq, {"--max-memory", "255MB"}));
  CAPTURE(some.err);
  CHECK(some.exit == 7);
  CHECK(some.err.find(" of memory; 243 MiB are allowed by --max-memory; GPTQ would fit with a scan of ") !=
        std::string::npos);
  const Finished none = RunSpikefold(With(gptq, {"--max-memory", "40MB"}));
  CAPTURE(none.err);
  CHECK(none.exit == 7);
  CHECK(!PathExists(w / "q"));
  CHECK(!PathExists(w / "q.partial"));
  CHECK(RunSpikefold(With(gptq, {"--max-memory", "40MB", "--dry-run"})).exit == 7);
  const Json near =
      SucceedJson({"quantize", w / "small", "--scheme", "w8a16", "-o", w / "q", "--max-memory", "90MB"});
  CHECK(*near.GetInt("peak_memory", "peak") <= 90'000'000);
}

}  // namespace
}  // namespace spikefold::testing
