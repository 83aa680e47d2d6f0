// Many recipes over one scan, on a model whose outliers are known.
#include <filesystem>

#include "formats/safetensors.h"
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

struct SweepPlace {
  SweepPlace() {
    WritePlantedModel(model);
    REQUIRE(WriteFileAtomically(train, RandomText(600, 3)).ok());
    REQUIRE(WriteFileAtomically(text, RandomText(600, 4)).ok());
    Succeed({"scan", model, "-o", scan, "--windows", "8", "--length", "64", "--text", train});
  }
  std::string operator/(const std::string& name) const { return directory / name; }
  std::vector<std::string> Command(const std::string& recipes, std::vector<std::string> more = {}) const {
    std::vector<std::string> all = {"sweep",     model, "--scan",    scan, "--text",    text,   "-o", out,
                                    "--context", "64",  "--windows", "3",  "--recipes", recipes};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string Recipes(const std::string& json) const {
    REQUIRE(WriteFileAtomically(directory / "recipes.json", json).ok());
    return directory / "recipes.json";
  }
  Json Eval(const std::string& name) const {
    const auto json = ParseJson(ReadAll(absl::StrCat(out, "/", name, ".eval.json")), name);
    REQUIRE(json.ok());
    return *json;
  }

  TempDirectory directory;
  const std::string model = directory / "model", scan = directory / "scan", train = directory / "train.txt",
                    text = directory / "text.txt", out = directory / "out";
};

constexpr char kThree[] = R"([{"scheme": "w4a16", "outliers": "none", "rotate": "none"},
    {"name": "eight", "scheme": "w4a8", "outliers": "none", "rotate": "none", "group_scales": "float"},
    {"name": "odd", "scheme": "w4a16", "codes": "grid", "group_size": 112}])";
constexpr char kFirst[] = "w4a16-rotate-none-outliers-none";

TEST_CASE("sweep measures what quantize and eval measure, shares codes and says what it skipped", "[apps]") {
  const SweepPlace w;
  const std::string table = Succeed(w.Command(w.Recipes(kThree)));
  CHECK(table.find("Pareto") != std::string::npos);
  CHECK(table.find("\nskipped odd: ") != std::string::npos);
  CHECK(table.find("group_size=112") != std::string::npos);
  for (const char* name : {"report.html", "report.md", "report.csv"}) {
    CHECK(ReadAll(absl::StrCat(w.out, "/", name)).find("eight") != std::string::npos);
  }
  CHECK(!PathExists(w.out + "/eight"));
  CHECK(!PathExists(absl::StrCat(w.out, "/", kFirst)));

  const auto record = ParseJson(ReadAll(w.out + "/sweep.json"), "sweep.json");
  REQUIRE(record.ok());
  const Json::Array& points = record->Find("points")->array();
  REQUIRE(points.size() == 3);
  CHECK(*points[0].GetString("name", "") == kFirst);
  CHECK(*points[1].GetString("codes_from", "") == kFirst);
  CHECK(*points[2].GetString("status", "") == "refused");

  Succeed({"quantize", w.model, "--scan", w.scan, "--scheme", "w4a8", "--outliers", "none", "--rotate",
           "none", "--group-scales", "float", "-o", w / "q"});
  Succeed({"eval", w / "q", "--reference", w.model, "--text", w.text, "--context", "64", "--windows", "3",
           "--protocol", "llamacpp", "-o", w / "q.json"});
  const auto alone = ParseJson(ReadAll(w / "q.json"), "q.json");
  REQUIRE(alone.ok());
  const Json swept = w.Eval("eight");
  for (const char* key : {"kld_mean", "ppl", "ppl_reference", "bits_linear"}) {
    CAPTURE(key);
    CHECK(*swept.GetDouble(key, "") == *alone->GetDouble(key, ""));
  }
  CHECK(*swept.GetString("plan_sha256", "") == *alone->GetString("plan_sha256", ""));
}

TEST_CASE("A budget that is spent on another recipe's bits takes its codes", "[apps]") {
  const SweepPlace w;
  // Trellis codes: 2 bits everywhere is the least that a budget may be.
  constexpr char kTwo[] = R"({"name": "two", "scheme": "w2a16", "rotate": "offline"})";
  Succeed(w.Command(w.Recipes(absl::StrCat("[", kTwo, "]"))));
  const double bits = *w.Eval("two").GetDouble("bits_linear", "");
  const auto with_budget = [](const char* name, double budget) {
    return absl::StrCat(R"({"scheme": "w4a16", "rotate": "offline", "name": ")", name, R"(", "bits": )",
                        budget, "}");
  };
  const std::string all = absl::StrCat("[", kTwo, ", ", with_budget("least", bits + 1e-3), ", ",
                                       with_budget("more", bits + 1), "]");
  const Json record = SucceedJson(w.Command(w.Recipes(all), {"--force"}));
  const Json::Array& points = record.Find("points")->array();
  REQUIRE(points.size() == 3);
  CHECK(points[1].GetString("codes_from", "").value_or("") == "two");
  CHECK(points[2].Find("codes_from") == nullptr);
  CHECK(*w.Eval("least").GetDouble("kld_mean", "") == *w.Eval("two").GetDouble("kld_mean", ""));
  CHECK(*w.Eval("more").GetDouble("kld_mean", "") < *w.Eval("two").GetDouble("kld_mean", ""));
}

TEST_CASE("sweep runs again only what is not done or has changed", "[apps]") {
  const SweepPlace w;
  const std::string recipes = w.Recipes(kThree);
  Succeed(w.Command(recipes, {"--max-points", "1", "--keep-models"}));
  CHECK(PathExists(absl::StrCat(w.out, "/", kFirst, "/spikefold.json")));
  const auto seconds = [&](const char* name) { return *w.Eval(name).GetDouble("seconds", ""); };
  const double first = seconds(kFirst);
  const Json record = SucceedJson(w.Command(recipes));
  CHECK(record.Find("points")->array().size() == 3);
  CHECK(seconds(kFirst) == first);
  const double second = seconds("eight");
  Succeed(w.Command(recipes));
  CHECK(seconds("eight") == second);
  Succeed(w.Command(w.Recipes(R"([{"name": "eight", "scheme": "w8a8"}])")));
  CHECK(*w.Eval("eight").GetString("scheme", "") == "w8a8");
  Succeed(w.Command(w.Recipes(kThree), {"--force", "--max-points", "1"}));
  CHECK(seconds(kFirst) != first);
}

TEST_CASE("sweep writes for an engine what quantize writes for it", "[apps]") {
  const SweepPlace w;
  Succeed(
      w.Command(w.Recipes(R"([{"name": "vllm", "scheme": "w8a8", "target": "vllm"}])"), {"--keep-models"}));
  Succeed({"quantize", w.model, "--scan", w.scan, "--scheme", "w8a8", "--target", "vllm", "-o", w / "q"});
  CHECK((AllBytes(w.out + "/vllm") == AllBytes(w / "q")));
  const Finished run = RunSpikefold(w.Command(w.Recipes(R"([{"scheme": "w4a4", "target": "vllm"}])")));
  CHECK(run.exit == 2);
  CHECK(run.err.find("recipes.json[0]: target \"vllm\": scheme w4a4's activations of 4 bits") !=
        std::string::npos);
}

TEST_CASE("A sweep that can measure nothing fails; a linear of zeros is measured as any other", "[apps]") {
  const SweepPlace w;
  const Finished refused = RunSpikefold(w.Command(w.Recipes(R"([{"scheme": "w4a16", "group_size": 112}])")));
  CHECK(refused.exit == 2);
  CHECK(refused.out.find("\nskipped ") != std::string::npos);
  CHECK(refused.err.find("every recipe was refused") != std::string::npos);
  const auto record = ParseJson(ReadAll(w.out + "/sweep.json"), "sweep.json");
  REQUIRE(record.ok());
  CHECK(*record->Find("points")->array().front().GetString("status", "") == "refused");

  const std::string weights = w.model + "/model.safetensors";
  const auto file = SafetensorsFile::Open(weights);
  REQUIRE(file.ok());
  const SafetensorsEntry gate = *(*file)->Find("model.layers.2.mlp.gate_proj.weight");
  std::string bytes = ReadAll(weights);
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(gate.offset), gate.bytes, '\0');
  WriteBytes(weights, bytes);
  Succeed({"scan", w.model, "-o", w.scan, "--windows", "8", "--length", "64", "--text", w.train, "--force"});
  const std::string recipes = w.Recipes(R"([{"name": "gptq", "scheme": "w4a16", "outliers": "none"}])");
  // What the zeros feed reads nothing, and is rounded all the same.
  Succeed(w.Command(recipes, {"--force"}));
}

TEST_CASE("sweep refuses bad lists, foreign directories and names that are no file names", "[apps]") {
  const SweepPlace w;
  CHECK(RunSpikefold(w.Command(w.Recipes("[]"))).exit == 2);
  CHECK(RunSpikefold(w.Command(w.Recipes(R"([{"scheme": "w8a8", "name": "../x"}])"))).exit == 2);
  CHECK(RunSpikefold(w.Command(w.Recipes(R"([{"scheme": "w8a8", "name": "sweep.json"}])"))).exit == 2);
  CHECK(RunSpikefold(w.Command(w.Recipes(R"([{"scheme": "w8a8", "bitss": 4}])"))).exit == 3);
  CHECK(!PathExists(w.out));
  REQUIRE(std::filesystem::create_directory(w.out));
  REQUIRE(WriteFileAtomically(w.out + "/mine.txt", "mine").ok());
  const Finished run = RunSpikefold(w.Command(w.Recipes(kThree)));
  CHECK(run.exit == 6);
  CHECK(run.err.find("holds something else than a sweep") != std::string::npos);
  CHECK(ListDirectory(w.out)->size() == 1);
}

}  // namespace
}  // namespace spikefold::testing
