// The same input and flags give the same bytes, whatever the threads and the vector instructions.
#include "tests/apps/apps_kit.h"

namespace spikefold::testing {
namespace {

// Ways to run that must not matter. Where the CPU has no AVX-512, only the number of threads differs.
std::vector<Args> Ways(const std::string& model) {
  std::vector<Args> ways = {{"--threads", "1"}, {"--threads", "2"}, {"--threads", "3"}};
  if (RunSpikefold({"inspect", model, "--isa", "avx512"}).exit == 0) {
    ways = {{"--threads", "1", "--isa", "avx2"},
            {"--threads", "2", "--isa", "avx512"},
            {"--threads", "3", "--isa", "avx512"},
            {"--threads", "2"}};
  } else {
    WARN("no AVX-512 here: only threads are compared");
  }
  return ways;
}

TEST_CASE("A checkpoint's bytes do not depend on threads or vector instructions", "[apps][determinism]") {
  const Workplace w;
  WritePlantedModel(w / "planted");
  // Between them: rounding to nearest and GPTQ, static ranges, folded prefixes, online rotations, trellis
  // codes.
  // The tiny model has widths of 64 and 80, the planted one has spikes in hundreds of channels.
  std::vector<Args> recipes = {{"--scheme", "w8a8-static"},
                               {"--scheme", "w4a16"},
                               {"--scheme", "w4a8-static"},
                               {"--scheme", "w2a16"},
                               {"--scheme", "w4a16", "--kv", "4"}};
  for (Args& recipe : recipes) recipe.insert(recipe.begin(), {"quantize", w.model});
  recipes.push_back({"quantize", w / "planted", "--scheme", "w4a4-group"});
  const std::vector<Args> ways = Ways(w.model);
  for (const Args& recipe : recipes) {
    CAPTURE(recipe);
    std::string first_weights, first_sidecar;
    for (const Args& way : ways) {
      CAPTURE(way);
      Succeed(
          With(With(recipe, {"-o", w / "q", "--force", "--text", w.text, "--windows", "4", "--length", "64"}),
               way));
      const std::string weights = ReadAll(w / "q/model.safetensors"),
                        sidecar = ReadAll(w / "q/spikefold.json");
      if (first_weights.empty()) {
        first_weights = weights;
        first_sidecar = sidecar;
      }
      CHECK((weights == first_weights));
      CHECK(sidecar == first_sidecar);
    }
  }
}

TEST_CASE("A scan's bytes do not depend on threads or vector instructions", "[apps][determinism]") {
  const Workplace w;
  WritePlantedModel(w / "planted");
  std::string first, first_map;
  for (const Args& way : Ways(w.model)) {
    CAPTURE(way);
    Succeed(With({"scan", w / "planted", "-o", w / "scan", "--force", "--anatomy", "--text", w.text,
                  "--windows", "4", "--length", "64"},
                 way));
    const std::string bytes = ReadAll(w / "scan/scan.spike"), map = ReadAll(w / "scan/outliers.json");
    if (first.empty()) {
      first = bytes;
      first_map = map;
    }
    CHECK((bytes == first));
    CHECK(map == first_map);
  }
}

}  // namespace
}  // namespace spikefold::testing
