#include "tests/fuzz/targets.h"

#include <cstdio>
#include <cstdlib>

namespace spikefold::fuzz {
namespace {

constexpr Target kTargets[] = {
    {"st_header", StHeader},
    {"st_index", StIndex},
    {"gguf", Gguf},
    {"gguf_blocks", GgufBlocks},
    {"tokenizer_json", TokenizerJson},
    {"tokenize", Tokenize},
    {"config_json", ConfigJson},
    {"sidecar", Sidecar},
    {"foreign", Foreign},
    {"journal", Journal},
    {"pack_round_trip", PackRoundTrip},
    {"zstd_cache", ZstdCache},
    {"scan_spike", ScanSpike},
    {"outliers", Outliers},
    {"rotations", Rotations},
    {"recipe", RecipeFile},
    {"plan", PlanFile},
};

}  // namespace

absl::Span<const Target> Targets() { return kTargets; }

const Target* FindTarget(absl::string_view name) {
  for (const Target& target : kTargets) {
    if (name == target.name) return &target;
  }
  return nullptr;
}

void Fail(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
  std::abort();
}

}  // namespace spikefold::fuzz
