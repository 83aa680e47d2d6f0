// Learned rotations on the command line.
#include "quant/folds/learned_rotations.h"
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

// A file as learn-rotations writes it, its matrices other Hadamard ones than the folds would draw.
std::string WriteRotations(const std::string& model, const std::string& path) {
  const auto base = *CheckpointReader::Open(model);
  LearnedRotations r = DrawnRotations(base->graph(), true, true, 77);
  r.model_fingerprint = *base->Fingerprint();
  SealRotations(r);
  REQUIRE(SaveRotations(r, path).ok());
  return r.sha256;
}

TEST_CASE("quantize takes learned rotations, to the same bytes each time, and says so everywhere", "[apps]") {
  const Workplace w;
  const std::string file = w / "rotations.spike", sha256 = WriteRotations(w.model, file);
  const Args wish = {"--scheme", "w8a8", "--outliers", "none", "--rotate", "offline"};
  const Args with = With(wish, {"--rotate-from", file});
  Succeed(With({"quantize", w.model, "-o", w / "a"}, with));
  Succeed(With({"quantize", w.model, "-o", w / "b"}, with));
  Succeed(With({"quantize", w.model, "-o", w / "drawn"}, wish));
  CHECK(AllBytes(w / "a") == AllBytes(w / "b"));
  CHECK(ReadAll(w / "a/model.safetensors") != ReadAll(w / "drawn/model.safetensors"));
  CHECK(Succeed({"inspect", w / "a"}).find("R1 (learned, " + sha256.substr(0, 12) + "...)") !=
        std::string::npos);
  CHECK(Succeed({"inspect", w / "drawn"}).find("learned") == std::string::npos);
  const Json eval = SucceedJson(
      {"eval", w / "a", "--reference", w.model, "--text", w.text, "--context", "32", "--windows", "2"});
  CHECK(*eval.GetDouble("ppl_ratio", "") == Approx(1).epsilon(0.2));

  // A plan names them, and is applied with them alone.
  const std::string plan = w / "plan.json";
  Succeed(With({"plan", w.model, "-o", plan}, with));
  CHECK(ReadAll(plan).find(sha256) != std::string::npos);
  Succeed({"quantize", w.model, "--plan", plan, "--rotate-from", file, "-o", w / "c"});
  CHECK(ReadAll(w / "a/model.safetensors") == ReadAll(w / "c/model.safetensors"));
  CheckRefused({"quantize", w.model, "--plan", plan, "-o", w / "d"}, 2,
               "spikefold quantize: rotations: the recipe asks for learned ones (" + sha256.substr(0, 12) +
                   "...); given are none; give what it was made with by --rotate-from");

  // They prove exact.
  const Json folds = SucceedJson(
      {"folds", w.model, "--text", w.text, "--windows", "2", "--length", "32", "--rotate-from", file});
  bool proved = false;
  for (const Json& fold : folds.Find("folds")->array()) {
    if (*fold.GetString("fold", "") == "R1+R2 learned") proved = *fold.GetString("verdict", "") == "exact";
    if (fold.Find("reason") != nullptr) continue;
    for (const char* arithmetic : {"float64", "float32"}) {
      CHECK(*fold.Find(arithmetic)->GetDouble("logit", "") < 1e-4);
      CHECK(*fold.Find(arithmetic)->GetDouble("kld", "") < 1e-6);
    }
  }
  CHECK(proved);
}

TEST_CASE("Rotations that are damaged, of another model or none of ours are refused, nothing half-written",
          "[apps]") {
  const Workplace w;
  const std::string file = w / "rotations.spike", other = w / "other";
  const std::string sha256 = WriteRotations(w.model, file);
  const auto quantize = [&](const std::string& model, const std::string& from) {
    return Args{"quantize", model,     "--scheme",      "w8a8", "--outliers", "none",
                "--rotate", "offline", "--rotate-from", from,   "-o",         w / "out"};
  };
  std::string bytes = ReadAll(file);
  bytes[bytes.size() - 9] = static_cast<char>(bytes[bytes.size() - 9] ^ 64);
  WriteBytes(w / "flipped", bytes);
  CheckRefused(quantize(w.model, w / "flipped"), 3,
               "spikefold quantize: " + (w / "flipped") +
                   ": its matrices are not those it was written with; learn the rotations again");
  CheckRefused(quantize(w.model, w.model + "/model.safetensors"), 3,
               "spikefold quantize: " + w.model +
                   "/model.safetensors: holds no rotations; give what learn-rotations wrote");
  WritePlantedModel(other);
  const Finished run = RunSpikefold(quantize(other, file));
  CHECK(run.exit == 2);
  CHECK(run.err.find("the learned rotations are of model ") != std::string::npos);
  CheckRefused({"quantize", w.model, "--scheme", "w8a8", "--outliers", "none", "--rotate", "R2",
                "--rotate-from", file, "-o", w / "out"},
               2,
               "spikefold quantize: the learned rotations are R1 and R2; what is asked for and legal here is "
               "R2; rotate as they were learnt, or learn others");
  // Nothing that is given is silently left out.
  CheckRefused({"quantize", w.model, "--scheme", "w8a8", "--outliers", "none", "--rotate", "none",
                "--rotate-from", file, "-o", w / "out"},
               2,
               "spikefold quantize: the learned rotations are R1 and R2; what is asked for and legal here is "
               "none; rotate as they were learnt, or learn others");
  const std::string recipe = w / "recipe.json", wanted(64, 'a');
  WriteBytes(recipe, R"({"scheme":"w8a8","outliers":"none","rotate":"offline","rotations_sha256":")" +
                         wanted + "\"}");
  CheckRefused(
      {"quantize", w.model, "--recipe", recipe, "--rotate-from", file, "-o", w / "out"}, 2,
      "spikefold quantize: rotations: the recipe asks for learned ones (aaaaaaaaaaaa...); given are " +
          sha256.substr(0, 12) + "...; give what it was made with by --rotate-from");
  CHECK(!PathExists(w / "out"));
}

}  // namespace
}  // namespace spikefold::testing
