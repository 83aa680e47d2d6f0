// Ctrl-C at the worst moments.
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

// What is in a directory, by name.
std::vector<std::string> Listing(const std::string& directory) {
  const auto names = ListDirectory(directory);
  REQUIRE(names.ok());
  return *names;
}

ProcessOptions InterruptAt(const std::string& stage, std::vector<int> signals = {SIGINT}) {
  return {.when = [stage](const Finished& run) { return run.err.find(stage) != std::string::npos; },
          .signals = std::move(signals)};
}

TEST_CASE("Ctrl-C while a model is scanned ends with 130 and leaves nothing behind", "[apps]") {
  const Workplace w;
  const auto before = Listing(w.directory.path());
  const Finished run = RunSpikefold(
      {"scan", w.model, "-o", w / "scan", "--windows", "100000", "--length", "64", "--progress", "always"},
      InterruptAt("writing text: 0 of"));
  CAPTURE(run.err);
  CHECK(run.exit == 130);
  CHECK(run.out.empty());
  CHECK(Listing(w.directory.path()) == before);
}

TEST_CASE("Ctrl-C while tensors are written ends with 130 and keeps the tensors that are whole", "[apps]") {
  const Workplace w;
  WritePlantedModel(w / "planted");
  std::vector<std::string> quantize = {
      "quantize", w / "planted", "--scheme", "w4a16", "--weight-scales", "absmax",     "--outliers",
      "none",     "--rounding",  "nearest",  "-o",    w / "out",         "--progress", "always"};
  const Finished run = RunSpikefold(quantize, InterruptAt("quantizing: 0 of"));
  CAPTURE(run.err);
  CHECK(run.exit == 130);
  CHECK(run.err.find("go on with --resume\n") != std::string::npos);
  CHECK(Listing(w.directory.path()) ==
        std::vector<std::string>{"model", "out.partial", "out.partial.journal", "planted", "text.txt"});
  quantize.push_back("--resume");
  Succeed(quantize);
  Succeed({"verify", w / "out"});
  CHECK(Listing(w.directory.path()) == std::vector<std::string>{"model", "out", "planted", "text.txt"});
}

TEST_CASE("A second signal ends the process at once", "[apps]") {
  const Workplace w;
  const Finished run = RunSpikefold(
      {"scan", w.model, "-o", w / "scan", "--windows", "100000", "--length", "64", "--progress", "always"},
      InterruptAt("writing text: 0 of", {SIGINT, SIGTERM}));
  CAPTURE(run.err);
  CHECK((run.signal == SIGINT || run.signal == SIGTERM));
  CHECK(!PathExists(w / "scan"));
}

TEST_CASE("Ctrl-C while text is generated keeps what was said", "[apps]") {
  const TempDirectory directory;
  WritePlantedModel(directory / "model");
  const Finished run = RunSpikefold(
      {"generate", directory / "model", "-p", "hello", "--max-tokens", "1000", "--temperature", "1"},
      {.when = [](const Finished& so_far) { return so_far.out.size() > 8; }, .signals = {SIGINT}});
  CAPTURE(run.out.size(), run.err);
  CHECK(run.exit == 130);
  CHECK(run.out.substr(0, 5) == "hello");
  CHECK(run.out.back() == '\n');
  // A document that was not made leaves nothing on stdout.
  const Finished json = RunSpikefold({"generate", directory / "model", "-p", "hello", "--max-tokens", "1000",
                                      "--json", "--progress", "always"},
                                     {.when =
                                          [](const Finished& so_far) {
                                            if (so_far.err.find("loading: 0 of") == std::string::npos)
                                              return false;
                                            std::this_thread::sleep_for(std::chrono::milliseconds(50));
                                            return true;
                                          },
                                      .signals = {SIGINT}});
  CAPTURE(json.err);
  CHECK(json.exit == 130);
  CHECK(json.out.empty());
}

}  // namespace
}  // namespace spikefold::testing
