// A small model with its scan: what planner and quantizer start from.
#pragma once

#include <catch2/catch.hpp>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "calib/census.h"
#include "formats/base/file.h"
#include "kernels/runtime/forward.h"
#include "quant/planner.h"
#include "tests/testing/temp_directory.h"
#include "tests/testing/tiny_model.h"

namespace spikefold::testing {

inline ThreadPool& TestPool() {
  static ThreadPool pool(2);
  return pool;
}

// Words "t0".."t<vocab-1>" in a fixed random order.
inline std::string RandomWords(int64_t count, int64_t vocab, uint32_t seed) {
  std::string text;
  uint32_t state = seed;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    absl::StrAppend(&text, i ? " " : "", "t", static_cast<int64_t>(state >> 8) % vocab);
  }
  return text;
}

struct Scanned {
  TinyModel tiny;
  std::unique_ptr<RuntimeModel> model;
  ScanResult scan;
  std::string fingerprint;
  PlannerInput input() const {
    return {.graph = &tiny.checkpoint->graph(),
            .map = &scan.map,
            .stats = &scan.stats,
            .model_fingerprint = fingerprint,
            .scan_sha256 = "scan"};
  }
};

inline Scanned ScanTiny(const TinyModelOptions& options) {
  Scanned out{.tiny = MakeTinyModel(options), .model = nullptr, .scan = {}, .fingerprint = {}};
  auto model = LoadModel(*out.tiny.checkpoint, {.pool = &TestPool()});
  REQUIRE(model.ok());
  out.model = *std::move(model);
  const TempDirectory directory;
  const std::string path = directory / "text";
  REQUIRE(WriteFileAtomically(path, RandomWords(8 * 64, options.vocab, 1)).ok());
  auto scan = Scan(*out.model, *out.tiny.checkpoint, WordTokenizer(options.vocab),
                   {.num_windows = 8, .window_length = 64, .texts = {path}});
  CAPTURE(scan.status().ToString());
  REQUIRE(scan.ok());
  out.scan = *std::move(scan);
  out.fingerprint = *out.tiny.checkpoint->Fingerprint();
  return out;
}

// 4 heads of 16 on a residual of 64: every width is a multiple of 32. Random, without spikes.
inline TinyModelOptions PlainModel() {
  return {.hidden = 64,
          .intermediate = 96,
          .num_layers = 3,
          .head_dim = 16,
          .vocab = 131,
          .qkv_bias = true,
          .random_gains = true,
          .write_scale = 0.2};
}
// The kit's planted spikes: channels 70 and 301 on the token t7.
inline TinyModelOptions SpikedModel() { return {.spike_channels = {70, 301}, .step_up = 1, .step_down = 3}; }

// A scan's prefix made by hand, for models where the search finds none.
inline void GivePrefix(Scanned& s, std::vector<int32_t> tokens) {
  auto prefix = ComputePrefix(*s.model, tokens);
  REQUIRE(prefix.ok());
  s.scan.stats.prefix = *std::move(prefix);
  s.scan.map.prefix = tokens;
  StatsArm behind = s.scan.stats.arms[0];
  behind.name = "prefix";
  behind.prefix = std::move(tokens);
  s.scan.stats.arms.push_back(std::move(behind));
}

}  // namespace spikefold::testing
