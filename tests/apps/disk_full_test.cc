// A disk that is full at any call, and a kill at any, for what else writes: scans, exports, reports.
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

struct Writers : Workplace {
  Writers() {
    Succeed({"quantize", model, "-o", q, "--scheme", "w4a16", "--rounding", "nearest", "--outliers", "none",
             "--weight-scales", "absmax", "--head-bits", "16", "--group-size", "16"});
  }
  // Each writes w / "out".
  std::vector<Args> Commands() const {
    const std::string out = directory / "out", gguf = SPIKEFOLD_TEST_DATA "/tiny/llama/model.gguf";
    return {
        {"export", q, "--to", "compressed-tensors", "-o", out},
        {"export", q, "--to", "safetensors", "-o", out},
        {"export", gguf, "--to", "gguf", "--type", "q8_0", "-o", out},
        {"scan", model, "-o", out, "--text", text, "--windows", "2", "--length", "32"},
        {"plan", model, "-o", out, "--scheme", "w8a16", "--outliers", "none"},
    };
  }
  std::vector<std::string> Listing() const {
    auto names = *ListDirectory(directory.path());
    std::sort(names.begin(), names.end());
    return names;
  }
  const std::string q = directory / "q";
};

// 1, and so on to `calls`, about 12 of them.
std::vector<int64_t> SomeOf(int64_t calls) {
  std::vector<int64_t> some;
  for (int64_t call = 1; call <= calls; call += std::max<int64_t>(1, calls / 12)) some.push_back(call);
  some.push_back(calls);
  return some;
}

TEST_CASE("A disk that is full at any call ends each command with 6, says so and leaves nothing",
          "[apps][disk]") {
  const Writers w;
  const auto before = w.Listing();
  for (const Args& command : w.Commands()) {
    INFO(command[0] << " " << command[3]);
    const int64_t calls = CountDiskCalls(command);
    REQUIRE(calls >= 3);
    std::filesystem::remove_all(w / "out");
    for (const int64_t call : SomeOf(calls)) {
      const Finished run = RunSpikefold(command, DiskFault("SPIKEFOLD_FULL_AT", call));
      INFO("full at call " << call << " of " << calls << ": " << run.err);
      CHECK(run.exit == 6);
      CHECK(run.err.find("No space left on device") != std::string::npos);
      CHECK(run.out.empty());
      CHECK(w.Listing() == before);
    }
  }
}

TEST_CASE("A command that is killed at any call shows its whole output or none, and works the next time",
          "[apps][disk]") {
  const Writers w;
  for (const Args& command : w.Commands()) {
    INFO(command[0] << " " << command[3]);
    const int64_t calls = CountDiskCalls(command);
    const auto whole = std::filesystem::is_directory(w / "out") ? std::string() : ReadAll(w / "out");
    std::filesystem::remove_all(w / "out");
    for (const int64_t call : SomeOf(calls)) {
      INFO("killed at call " << call << " of " << calls);
      CHECK(RunSpikefold(command, DiskFault("SPIKEFOLD_KILL_AT", call)).signal == SIGKILL);
      CHECK(!PathExists(w / "out"));
      Succeed(command);
      if (!whole.empty()) CHECK(ReadAll(w / "out") == whole);
      std::filesystem::remove_all(w / "out");
    }
  }
}

TEST_CASE("A scan that is replaced is there at any moment, the old one or the new", "[apps][disk]") {
  const Writers w;
  const auto scan = [&](const char* windows) {
    return Args{"scan",      w.model, "-o",       w / "out", "--text", w.text,
                "--windows", windows, "--length", "32",      "--force"};
  };
  Succeed(scan("2"));
  const std::string old_bytes = AllBytes(w / "out");
  const int64_t calls = CountDiskCalls(scan("3"));
  const std::string new_bytes = AllBytes(w / "out");
  CHECK((new_bytes != old_bytes));
  for (int64_t call = 1; call <= calls; ++call) {
    INFO("killed at call " << call << " of " << calls);
    Succeed(scan("2"));
    CHECK(RunSpikefold(scan("3"), DiskFault("SPIKEFOLD_KILL_AT", call)).signal == SIGKILL);
    REQUIRE(PathExists(w / "out"));
    const std::string bytes = AllBytes(w / "out");
    CHECK((bytes == old_bytes || bytes == new_bytes));
  }
}

}  // namespace
}  // namespace spikefold::testing
