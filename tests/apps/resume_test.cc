// A run that is killed, at whatever moment, is gone on with to the same bytes.
#include <signal.h>

#include <filesystem>
#include <random>

#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

struct ResumeWorkplace : Workplace {
  ResumeWorkplace() {
    WritePlantedModel(planted);
    Succeed({"scan", planted, "-o", scan, "--text", text, "--windows", "4", "--length", "64"});
  }
  Args Quantize(const std::string& out, const Args& more = {}) const {
    Args args = {"quantize", planted, "--scan", scan, "--scheme", "w4a16", "-o", directory / out};
    args.insert(args.end(), more.begin(), more.end());
    return args;
  }
  // Nothing but these lies in the workplace.
  void CheckOnly(Args names) const {
    names.insert(names.end(), {"model", "planted", "scan", "text.txt"});
    std::sort(names.begin(), names.end());
    CHECK(*ListDirectory(directory.path()) == names);
  }
  const std::string planted = directory / "planted", scan = directory / "scan";
};

bool Resumed(const Finished& run) { return run.err.find("went on behind") != std::string::npos; }

TEST_CASE("A quantization killed at 20 random points is gone on with to the same bytes", "[apps][resume]") {
  const ResumeWorkplace w;
  const int64_t calls = CountDiskCalls(w.Quantize("whole"));
  REQUIRE(calls > 50);
  const std::string expected = AllBytes(w / "whole");
  std::mt19937 random(7);
  int resumed = 0, killed = 0;
  for (int i = 0; i < 20; ++i) {
    const std::string out = absl::StrCat("q", i);
    // One point in each twentieth; what goes on is killed once more, on its way or behind its end.
    int64_t call = 1 + (i * calls + static_cast<int64_t>(random() % static_cast<uint32_t>(calls))) / 20;
    INFO("killed at call " << call << " of " << calls);
    for (int attempt = 0;; ++attempt) {
      const Finished run =
          RunSpikefold(w.Quantize(out, {"--resume"}),
                       attempt < 2 ? DiskFault("SPIKEFOLD_KILL_AT", call) : ProcessOptions{});
      INFO(run.err);
      REQUIRE((run.exit == 0 || run.signal == SIGKILL));
      REQUIRE((attempt > 0 || run.signal == SIGKILL));
      killed += run.signal == SIGKILL ? 1 : 0;
      resumed += Resumed(run) ? 1 : 0;
      if (run.exit == 0) break;
      if (PathExists(w / out)) {  // killed once all was in its place: only the journal can be left
        std::filesystem::remove(w / absl::StrCat(out, ".partial.journal"));
        break;
      }
      call = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(calls));
    }
    CHECK(AllBytes(w / out) == expected);
    Succeed({"verify", w / out});
    std::filesystem::remove_all(w / out);
    w.CheckOnly({"whole"});
  }
  CHECK(killed >= 25);
  CHECK(resumed >= 15);
}

// An interrupted run of which something is left.
void Interrupt(const ResumeWorkplace& w, const std::string& out, Args more = {}) {
  more.insert(more.end(), {"--progress", "always"});
  const Finished run =
      RunSpikefold(w.Quantize(out, more),
                   {.when = [](const Finished& r) { return r.err.find("rounding: ") != std::string::npos; },
                    .signals = {SIGINT}});
  INFO(run.err);
  REQUIRE(run.exit == 130);
  CHECK(run.err.find(absl::StrCat("; what is done waits in ", w / out, ".partial, go on with --resume\n")) !=
        std::string::npos);
  REQUIRE(PathExists(absl::StrCat(w / out, ".partial.journal")));
}

TEST_CASE("What an interrupted run left is neither lost nor mixed up", "[apps][resume]") {
  const ResumeWorkplace w;
  const std::string partial = w / "q.partial", journal = partial + ".journal";
  Interrupt(w, "q");
  const std::string records = ReadAll(journal);
  const auto count = std::count(records.begin(), records.end(), '\n') - 1;
  CheckRefused(
      w.Quantize("q"), 6,
      absl::StrCat("spikefold quantize: ", partial, ": holds ", count,
                   " linears of an interrupted run; go on with --resume, or begin again with --force"));
  // Another plan.
  const Finished other = RunSpikefold(w.Quantize("q", {"--resume", "--group-size", "32", "--seed", "3"}));
  CHECK(other.exit == 3);
  CHECK(other.err.find(journal + ": is of another model, plan, calibration, arithmetic or version (") !=
        std::string::npos);
  CHECK(ReadAll(journal) == records);
  // A GPU that is not there.
  const Finished no_device = RunSpikefold(w.Quantize("q", {"--resume", "--backend", "cuda"}),
                                          {.environment = {"CUDA_VISIBLE_DEVICES="}});
  CHECK((no_device.exit == 4 || no_device.exit == 8));  // not built in, or no device
  CHECK(ReadAll(journal) == records);

  Succeed(w.Quantize("whole"));
  const std::string expected = AllBytes(w / "whole");
  // A torn last record, and a tensor that is not what its record says.
  WriteBytes(journal, records.substr(0, records.size() - 3));
  std::string weights = ReadAll(partial + "/model.safetensors");
  const size_t header = static_cast<unsigned char>(weights[0]) | static_cast<unsigned char>(weights[1]) << 8;
  for (size_t i = 8 + header; i < weights.size(); i += 1000) weights[i] = static_cast<char>(weights[i] ^ 1);
  WriteBytes(partial + "/model.safetensors", weights);
  Succeed(w.Quantize("q", {"--resume"}));
  CHECK(AllBytes(w / "q") == expected);
  w.CheckOnly({"q", "whole"});
}

TEST_CASE("Kept columns and forms of the key/value cache survive an interruption", "[apps][resume]") {
  const ResumeWorkplace w;
  for (const Args& recipe :
       {Args{"--outliers", "keep", "--keep-columns", "4", "--codes", "grid", "--kv", "4"},
        Args{"--outliers", "keep", "--codes", "grid", "--kv", "k4v2", "--kv-window", "64"}}) {
    CAPTURE(recipe);
    const auto with = [&recipe](Args more) {
      more.insert(more.end(), recipe.begin(), recipe.end());
      return more;
    };
    Succeed(w.Quantize("whole", recipe));
    const Json sidecar = *ParseJson(ReadAll(w / "whole/spikefold.json"), "sidecar");
    int64_t kept = 0;
    for (const auto& [module, linear] : sidecar.Find("linears")->object()) {
      kept += *linear.GetInt("kept", "sidecar");
    }
    CHECK(kept > 0);
    CHECK(!sidecar.Find("kv")->is_null());
    Interrupt(w, "q", recipe);
    const Finished resumed = RunSpikefold(w.Quantize("q", with({"--resume"})));
    INFO(resumed.err);
    REQUIRE(resumed.exit == 0);
    CHECK(Resumed(resumed));
    CHECK((AllBytes(w / "q") == AllBytes(w / "whole")));
    std::filesystem::remove_all(w / "q");
    std::filesystem::remove_all(w / "whole");
  }
}

TEST_CASE("What is left of another run gives way to --force, and to anything if it holds nothing",
          "[apps][resume]") {
  const ResumeWorkplace w;
  const std::string journal = w / "q.partial.journal";
  Interrupt(w, "q");
  Succeed(w.Quantize("q", {"--group-size", "32", "--force"}));
  std::filesystem::remove_all(w / "q");
  w.CheckOnly({});
  Interrupt(w, "q");
  const std::string records = ReadAll(journal);
  WriteBytes(journal, records.substr(0, records.find('\n') + 1));  // killed before its first linear
  Succeed(w.Quantize("q", {"--group-size", "32"}));
  w.CheckOnly({"q"});
}

TEST_CASE("A journal that is none, and a directory that is not ours, are left alone", "[apps][resume]") {
  const ResumeWorkplace w;
  const std::string partial = w / "q.partial", journal = partial + ".journal";
  WriteBytes(journal, "shopping list\n");
  for (const Args& more : {Args{}, Args{"--resume"}, Args{"--force"}}) {
    CheckRefused(w.Quantize("q", more), 3,
                 absl::StrCat("spikefold quantize: ", journal, ": is no journal; move it away"));
  }
  CHECK(ReadAll(journal) == "shopping list\n");
  std::filesystem::remove(journal);
  std::filesystem::create_directory(partial);
  WriteBytes(partial + "/diary.txt", "mine");
  CheckRefused(w.Quantize("q"), 6,
               absl::StrCat("spikefold quantize: ", partial,
                            ": is there, without the journal of an interrupted run; move it away"));
  CHECK(ReadAll(partial + "/diary.txt") == "mine");
  CHECK(!PathExists(journal));
}

}  // namespace
}  // namespace spikefold::testing
