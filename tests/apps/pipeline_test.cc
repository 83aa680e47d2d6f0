// The whole job on models whose outliers are known.
#include <cmath>
#include <filesystem>

#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

struct PlantedWorkplace {
  PlantedWorkplace() {
    planted = WritePlantedModel(model);
    Succeed({"scan", model, "-o", scan, "--windows", "8", "--length", "64", "--text", Text()});
  }
  std::string operator/(const std::string& name) const { return directory / name; }
  // Words with the sink token, which spikes wherever it stands.
  std::string Text() const {
    std::string text = RandomText(600, 3);
    for (size_t i = 0; i < text.size(); i += 40) text[i] = static_cast<char>(planted.token);
    REQUIRE(WriteFileAtomically(directory / "text.txt", text).ok());
    return directory / "text.txt";
  }

  TempDirectory directory;
  const std::string model = directory / "model", scan = directory / "scan";
  PlantedSpikes planted;
};

TEST_CASE("scan finds the planted spikes and plan, quantize, eval and verify work on what it wrote",
          "[apps]") {
  const PlantedWorkplace w;
  const auto map = ParseJson(ReadAll(w.scan + "/outliers.json"), "outliers.json");
  REQUIRE(map.ok());
  const Json& stages = *map->Find("stages");
  REQUIRE(stages.array().size() == 1);
  CHECK(*stages.array()[0].GetInt("step_up", "") == w.planted.step_up);
  CHECK(*stages.array()[0].GetInt("step_down", "") == w.planted.step_down);
  CHECK(*stages.array()[0].Find("channels")->array()[0].GetInt("channel", "") == w.planted.channels[0]);

  const std::string plan = w / "plan.json";
  const std::string table = Succeed(
      {"plan", w.model, "--scan", w.scan, "--scheme", "w8a8-static", "--outliers", "keep", "-o", plan});
  CHECK(table.find("INT8 static") != std::string::npos);
  // A plan says all there is to say: by way of a file or not, the same bytes come out, for any thread count.
  Succeed({"quantize", w.model, "--scan", w.scan, "--plan", plan, "-o", w / "a", "--threads", "1"});
  Succeed({"quantize", w.model, "--scan", w.scan, "--scheme", "w8a8-static", "--outliers", "keep", "-o",
           w / "b", "--threads", "3"});
  CHECK(ReadAll(w / "a/model.safetensors") == ReadAll(w / "b/model.safetensors"));
  CHECK(ReadAll(w / "a/spikefold.json") == ReadAll(w / "b/spikefold.json"));

  const Json document = SucceedJson({"inspect", w / "a"});
  CHECK(*document.Find("native")->GetString("scheme", "") == "w8a8-static");
  CHECK(*SucceedJson({"verify", w / "a"}).GetBool("verified", ""));

  const std::string eval = w / "eval.json";
  const Json result = SucceedJson({"eval", w / "a", "--reference", w.model, "--text", w.Text(), "--context",
                                   "64", "--windows", "4", "-o", eval});
  CHECK(*result.GetString("scheme", "") == "w8a8-static");
  CHECK(*result.GetInt("num_scored", "") == 4 * 63);
  CHECK(std::abs(*result.GetDouble("ppl_ratio", "") - 1) < 0.5);
  CHECK(*ParseJson(ReadAll(eval), eval)->GetDouble("ppl", "") == *result.GetDouble("ppl", ""));

  const std::string summary = Succeed({"report", eval, "--scan", w.scan, "-o", w / "report.html"});
  CHECK(summary.find("w8a8-static") != std::string::npos);
  CHECK(summary.find("\nWrote " + w / "report.html\n") != std::string::npos);
  CHECK(ReadAll(w / "report.html").find("<svg") != std::string::npos);
}

TEST_CASE("ablate zeroes the planted spikes beside its control, with a scan or without", "[apps]") {
  const PlantedWorkplace w;
  const std::vector<std::string> with_scan = {"ablate",    w.model,  "--scan",    w.scan,
                                              "--text",    w.Text(), "--context", "64",
                                              "--windows", "2",      "-o",        w / "ablate.json"};
  const std::string table = Succeed(with_scan);
  CHECK(table.find(absl::StrCat("Spikes after layer ", w.planted.step_up)) != std::string::npos);
  CHECK(table.find("at random places") != std::string::npos);
  const Json json = SucceedJson(with_scan);
  CHECK(ReadAll(w / "ablate.json") == json.Dump(1) + "\n");
  const Json &zero = json.Find("arms")->array()[0], &control = json.Find("arms")->array()[1];
  CHECK(*zero.GetString("edit", "") == "zero");
  CHECK(*control.GetBool("control", ""));
  CHECK(*zero.GetDouble("kld_mean", "") > 5 * *control.GetDouble("kld_mean", ""));
  const Json own = SucceedJson({"ablate", w.model, "--text", w.Text(), "--context", "64", "--windows", "2"});
  CHECK(*own.Find("arms")->array()[0].GetInt("layer", "") == w.planted.step_up);
  // A text that does not fill a window, and a scan of another model.
  REQUIRE(WriteFileAtomically(w / "short.txt", "a").ok());
  const Finished refused = RunSpikefold({"ablate", w.model, "--scan", w.scan, "--text", w / "short.txt"});
  CHECK(refused.exit == 2);
  CHECK(refused.err.find("one window needs 512") != std::string::npos);
}

TEST_CASE("A text beyond what calibration saw is told by its sites, the calibrated one is not", "[apps]") {
  // Calibrated without the token that spikes: its rows are far beyond every static range.
  const PlantedWorkplace w;
  const auto write = [&](const char* name, bool spikes) {
    std::string text = RandomText(600, 3);
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == static_cast<char>(w.planted.token)) text[i] = 'x';
      if (spikes && i % 40 == 0) text[i] = static_cast<char>(w.planted.token);
    }
    REQUIRE(WriteFileAtomically(w / name, text).ok());
    return w / name;
  };
  const std::string quiet = write("quiet.txt", false), loud = write("loud.txt", true);
  Succeed({"scan", w.model, "-o", w / "quiet-scan", "--windows", "8", "--length", "64", "--text", quiet});
  Succeed({"quantize", w.model, "--scan", w / "quiet-scan", "--scheme", "w8a8-static", "--outliers", "none",
           "--rotate", "none", "-o", w / "q"});
  const auto eval = [&](const std::string& text) {
    return RunSpikefold({"eval", w / "q", "--reference", w.model, "--text", text, "--context", "64",
                         "--windows", "4", "--json"});
  };
  const Finished same = eval(quiet), other = eval(loud);
  REQUIRE(same.exit == 0);
  REQUIRE(other.exit == 0);
  INFO(same.err);
  CHECK(same.err.find("beyond its static range") == std::string::npos);
  CHECK(other.err.find("calibrated on other text than this") != std::string::npos);
  const auto json = ParseJson(other.out, "eval");
  REQUIRE(json.ok());
  bool fires = false, step_up = false;
  for (const Json& site : json->Find("static_ranges")->array()) {
    fires = fires || *site.GetBool("fires", "");
    const std::string down_in = absl::StrCat("layers.", w.planted.step_up, ".down_in");
    if (*site.GetString("site", "") != down_in) continue;
    // The unit that writes the spike is the column that nobody saw.
    for (const Json& column : site.Find("unseen_columns")->array()) {
      step_up = step_up || column.int_value() == w.planted.writer_unit;
    }
  }
  CHECK(fires);
  CHECK(step_up);
  // What calibration saw is not repeated in every evaluation.
  CHECK(json->Find("calibration")->Find("static_sites") == nullptr);
}

TEST_CASE("compare puts scans side by side and says which folds each graph allows", "[apps]") {
  const PlantedWorkplace w;
  const std::string table = Succeed({"compare", w.scan, w.scan});
  CHECK(table.find("yes") != std::string::npos);
  Succeed({"scan", w.model, "-o", w / "probed", "--anatomy", "--windows", "8", "--length", "64", "--text",
           w.Text()});
  const Json json = SucceedJson({"compare", w.scan, w / "probed"});
  const Json &plain = json.Find("scans")->array()[0], &probed = json.Find("scans")->array()[1];
  CHECK(plain.Find("sink_ratio_random") == nullptr);
  CHECK(probed.GetDouble("sink_ratio_random", "").ok());
  // One token of 256 spikes.
  CHECK(*probed.Find("stages")->array()[0].GetDouble("vocabulary_share", "") == Approx(1 / 256.0));
  CHECK(*plain.Find("stages")->array()[0].GetInt("step_up", "") == w.planted.step_up);
  for (const Json& fold : plain.Find("folds")->array()) CHECK(*fold.GetBool("legal", ""));
  // What quantize would do by itself: means are taken off where activations have 4 bits.
  for (const Json& advice : plain.Find("advice")->array()) {
    const bool shifts = advice.GetString("options", "")->find(" --shift mean") != std::string::npos;
    CHECK(shifts == (*advice.GetString("scheme", "") == "w4a4"));
  }
  CheckRefused({"compare", w.scan}, 2, "spikefold compare: SCAN: 1 given; at least two are compared");
}

TEST_CASE("report writes what the ending says and refuses any other and what is no evaluation", "[apps]") {
  const Workplace w;
  const std::string eval = w / "eval.json";
  Succeed(
      {"eval", w.model, "--text", w.text, "--context", "64", "--windows", "2", "--name", "mine", "-o", eval});
  for (const char* ending : {"html", "md", "json", "csv"}) {
    Succeed({"report", eval, "-o", absl::StrCat(w / "report.", ending)});
    CHECK(ReadAll(absl::StrCat(w / "report.", ending)).find("mine") != std::string::npos);
  }
  CHECK(ReadAll(w / "report.csv").find('<') == std::string::npos);
  CHECK(ParseJson(ReadAll(w / "report.json"), "report.json").ok());
  CheckRefused({"report", eval, "-o", w / "report.pdf"}, 2,
               absl::StrCat("spikefold report: ", w / "report.pdf",
                            ": the ending says what to write; use .html, .md, .json or .csv"));
  CHECK(RunSpikefold({"report", w.text}).exit == 3);
  CHECK(RunSpikefold({"report", w / "none.json"}).exit == 6);
}

TEST_CASE("verify fails with 3 and names the file when one byte is changed", "[apps]") {
  const Workplace w;
  Succeed({"quantize", w.model, "--scheme", "w8a16", "-o", w / "out"});
  Succeed({"verify", w / "out"});
  const std::string path = w / "out/model.safetensors";
  std::string bytes = ReadAll(path);
  bytes[bytes.size() - 5] = static_cast<char>(bytes[bytes.size() - 5] ^ 1);
  REQUIRE(WriteFileAtomically(path, bytes).ok());
  const Finished run = RunSpikefold({"verify", w / "out"});
  CHECK(run.exit == 3);
  CHECK(run.err.find("model.safetensors") != std::string::npos);
  CHECK(run.out.empty());
}

TEST_CASE("A plan is refused with another scan than its own, with none and with wishes beside it", "[apps]") {
  const PlantedWorkplace w;
  Succeed({"scan", w.model, "-o", w / "other", "--windows", "4", "--length", "64", "--text", w.Text()});
  Succeed({"plan", w.model, "--scan", w.scan, "--scheme", "w8a8", "-o", w / "plan.json"});
  const auto refusal = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"quantize", w.model, "--plan", w / "plan.json", "-o", w / "out"};
    args.insert(args.end(), more.begin(), more.end());
    const Finished run = RunSpikefold(args);
    CHECK(run.exit == 2);
    CHECK(!PathExists(w / "out"));
    return run.err;
  };
  CHECK(refusal({}).find("was made from a scan") != std::string::npos);
  CHECK(refusal({"--scan", w / "other"}).find("give the one it was made from") != std::string::npos);
  CHECK(refusal({"--scan", w.scan, "--scheme", "w8a8"}).find("the plan has decided everything") !=
        std::string::npos);
}

TEST_CASE("A scan directory whose files are of two scans is refused", "[apps]") {
  const PlantedWorkplace w;
  REQUIRE(WriteFileAtomically(w / "other.txt", RandomText(600, 9)).ok());
  Succeed(
      {"scan", w.model, "-o", w / "other", "--windows", "4", "--length", "64", "--text", w / "other.txt"});
  REQUIRE(WriteFileAtomically(w.scan + "/scan.spike", ReadAll(w / "other/scan.spike")).ok());
  CheckRefused({"plan", w.model, "--scan", w.scan, "--scheme", "w8a8"}, 3,
               absl::StrCat("spikefold plan: ", w.scan,
                            ": outliers.json and scan.spike are of different scans; scan again"));
}

TEST_CASE("A scan of another model of the same shape is refused before any work", "[apps]") {
  const PlantedWorkplace w;
  const std::string other = w / "other";
  std::filesystem::copy(w.model, other);
  std::string weights = ReadAll(other + "/model.safetensors");
  weights[weights.size() - 2] ^= 1;
  REQUIRE(WriteFileAtomically(other + "/model.safetensors", weights).ok());
  for (const char* outliers : {"none", "fold", "auto"}) {
    const Finished run = RunSpikefold({"quantize", other, "--scan", w.scan, "--scheme", "w8a8-static",
                                       "--outliers", outliers, "-o", w / "out"});
    CHECK(run.exit == 2);
    CHECK(run.err.find("the scan is of model") != std::string::npos);
  }
  for (const auto& entry : std::filesystem::directory_iterator(w.scan)) {
    CHECK(entry.path().filename().string().find("folded-") == std::string::npos);
  }
}

TEST_CASE("What planning leaves beside a scan keeps no new scan out, anything else does", "[apps]") {
  const PlantedWorkplace w;
  const std::vector<std::string> again = {"scan",     w.model, "-o",     w.scan,   "--windows", "8",
                                          "--length", "64",    "--text", w.Text(), "--force"};
  REQUIRE(WriteFileAtomically(w.scan + "/costs-0123456789abcdef.json", "{}").ok());
  REQUIRE(WriteFileAtomically(w.scan + "/damage-0123456789abcdef.json", "{}").ok());
  REQUIRE(WriteFileAtomically(w.scan + "/folded-0123456789abcdef.spike", "").ok());
  Succeed(again);
  CHECK(!PathExists(w.scan + "/costs-0123456789abcdef.json"));
  REQUIRE(WriteFileAtomically(w.scan + "/costs.txt", "").ok());
  CHECK(RunSpikefold(again).exit == 2);
  CHECK(PathExists(w.scan + "/outliers.json"));
}

TEST_CASE("A checkpoint says how keys and values are kept; options change it, or only its sizes", "[apps]") {
  const PlantedWorkplace w;
  Succeed({"quantize", w.model, "--scheme", "w8a16", "--kv", "k4v3", "--kv-recent", "8", "-o", w / "q"});
  const auto kv = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"eval",   w / "q",     "--reference", w.model,     "--text",
                                     w.Text(), "--context", "64",          "--windows", "2"};
    args.insert(args.end(), more.begin(), more.end());
    return SucceedJson(args).Find("kv")->Dump();
  };
  const std::string own = kv({}), narrow = kv({"--kv-window", "128"}), other = kv({"--kv", "8"});
  CHECK(own.find("\"u4p\"") != std::string::npos);
  CHECK(own.find("\"window\":8") != std::string::npos);
  CHECK(narrow.find("\"u4p\"") != std::string::npos);
  CHECK(narrow.find("\"window\":8") != std::string::npos);
  CHECK(narrow.find("\"evict\":128") != std::string::npos);
  CHECK(other.find("\"u8p\"") != std::string::npos);
  CHECK(other.find("\"window\":16") != std::string::npos);
  CHECK(kv({"--kv", "float"}) == "null");
}

TEST_CASE("quantize without a scan makes the one that scan would make", "[apps]") {
  const Workplace w;
  const std::vector<std::string> text = {"--text", w.text, "--windows", "8", "--length", "64"};
  std::vector<std::string> scan = {"scan", w.model, "-o", w / "scan"};
  scan.insert(scan.end(), text.begin(), text.end());
  std::vector<std::string> alone = {"quantize", w.model, "--scheme", "w8a8-static", "-o", w / "alone"};
  alone.insert(alone.end(), text.begin(), text.end());
  Succeed(scan);
  Succeed(alone);
  Succeed({"quantize", w.model, "--scheme", "w8a8-static", "--scan", w / "scan", "-o", w / "with"});
  CHECK(ReadAll(w / "alone/spikefold.json") == ReadAll(w / "with/spikefold.json"));
  CHECK(ReadAll(w / "alone/model.safetensors") == ReadAll(w / "with/model.safetensors"));
  CheckRefused({"quantize", w.model, "--scheme", "w8a8-static", "--scan", w / "scan", "--text", w.text, "-o",
                w / "both"},
               2,
               "spikefold quantize: --text: is what a scan is made from, and --scan or --plan brings one; "
               "leave one of them out");
}

TEST_CASE("A recipe file is a wish that options override", "[apps]") {
  const Workplace w;
  const std::string recipe = w / "recipe.json";
  REQUIRE(WriteFileAtomically(recipe, R"({"scheme": "w8a16", "keep": ["*.layers.1.*"]})").ok());
  const Json plan = SucceedJson({"plan", w.model, "--recipe", recipe});
  CHECK(*plan.Find("recipe")->GetString("scheme", "") == "w8a16");
  const Json overridden =
      SucceedJson({"plan", w.model, "--recipe", recipe, "--scheme", "w8a8", "--outliers", "none"});
  CHECK(*overridden.Find("recipe")->GetString("scheme", "") == "w8a8");
  int kept = 0;
  for (const Json& tensor : overridden.Find("linears")->array()) {
    kept += *tensor.GetInt("weight_bits", "") == 16 ? 1 : 0;
  }
  CHECK(kept == 7);
  REQUIRE(WriteFileAtomically(recipe, R"({"scheme": "w8a16", "seed": 7})").ok());
  const auto seed = [&](const std::vector<std::string>& more) {
    std::vector<std::string> plan_args = {"plan", w.model, "--recipe", recipe};
    plan_args.insert(plan_args.end(), more.begin(), more.end());
    return *SucceedJson(plan_args).Find("recipe")->GetInt("seed", "");
  };
  CHECK(seed({}) == 7);
  CHECK(seed({"--seed", "9"}) == 9);
  REQUIRE(WriteFileAtomically(recipe, R"({"scheme": "w8a16", "kep": []})").ok());
  CheckRefused(
      {"plan", w.model, "--recipe", recipe}, 3,
      absl::StrCat("spikefold plan: ", recipe, ": \"kep\" is not a recipe key (did you mean \"keep\"?)"));
  REQUIRE(WriteFileAtomically(recipe, R"({"scheme": "w8a16", "keep_columns": 4294967297})").ok());
  CheckRefused({"plan", w.model, "--recipe", recipe}, 3,
               absl::StrCat("spikefold plan: ", recipe,
                            ": \"keep_columns\" is 4294967297; -2147483648 to 2147483647 is allowed"));
}

TEST_CASE("A float model beside itself has ratio one, and its quantization is told apart from it", "[apps]") {
  const Workplace w;
  const std::vector<std::string> how = {"--text", w.text, "--context", "64", "--windows", "8"};
  const auto eval = [&](std::vector<std::string> args) {
    args.insert(args.begin(), "eval");
    args.insert(args.end(), how.begin(), how.end());
    return SucceedJson(args);
  };
  const Json self = eval({w.model});
  CHECK(*self.GetDouble("ppl_ratio", "") == 1);
  CHECK(*self.GetDouble("kld_mean", "") == 0);
  Succeed({"quantize", w.model, "--scheme", "w4a16", "--outliers", "none", "-o", w / "q", "--text", w.text,
           "--windows", "8", "--length", "64"});
  const Json quantized = eval({w / "q", "--reference", w.model});
  CHECK(*quantized.GetDouble("kld_mean", "") > 0);
  CHECK(*quantized.GetDouble("ppl_reference", "") == *self.GetDouble("ppl", ""));
  const Json simulated = eval({w / "q", "--reference", w.model, "--simulate"});
  CHECK(*simulated.GetString("backend", "") == "cpu-simulated");
  CHECK(*simulated.GetDouble("kld_mean", "") == Approx(*quantized.GetDouble("kld_mean", "")).epsilon(0.05));
  const Finished lonely = RunSpikefold({"eval", w / "q", "--text", w.text});
  CHECK(lonely.exit == 2);
  CHECK(lonely.err.find("give the float model it came from with --reference") != std::string::npos);
}

TEST_CASE("Generated text depends on the seed alone, and greedy text on nothing", "[apps]") {
  const Workplace w;
  const auto text = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"generate", w.model, "-p", "hello", "--max-tokens", "40"};
    args.insert(args.end(), more.begin(), more.end());
    return Succeed(args);
  };
  CHECK(text({}) == text({"--threads", "3"}));
  const std::string drawn = text({"--temperature", "1", "--seed", "5"});
  CHECK(drawn == text({"--temperature", "1", "--seed", "5"}));
  CHECK(drawn != text({"--temperature", "1", "--seed", "6"}));
  CHECK(drawn.substr(0, 5) == "hello");
}

TEST_CASE("Generation ends at what generation_config.json calls an end", "[apps]") {
  const Workplace w;
  const auto tokens = [&] {
    return SucceedJson({"generate", w.model, "-p", "hello", "--max-tokens", "12"}).Find("tokens")->array();
  };
  const Json::Array ids = tokens();
  REQUIRE(ids.size() == 12);
  size_t first = 0;  // of the id that comes fifth
  while (ids[first].int_value() != ids[4].int_value()) ++first;
  const auto write = [&](const std::string& eos) {
    const std::string path = w.model + "/generation_config.json";
    REQUIRE(WriteFileAtomically(path, "{\"eos_token_id\": " + eos + "}").ok());
  };
  write(absl::StrCat("[", ids[4].int_value(), "]"));
  CHECK(tokens().size() == first);
  write("null");
  CHECK(tokens().size() == 12);
  write("\"x\"");
  const Finished bad = RunSpikefold({"generate", w.model, "-p", "hello"});
  CHECK(bad.exit == 3);
  CHECK(bad.err.find("generation_config.json: \"eos_token_id\" holds something that is no integer") !=
        std::string::npos);
}

}  // namespace
}  // namespace spikefold::testing
