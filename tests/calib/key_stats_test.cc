// Keys before rotary embedding: what the observer keeps of them, and its way through the file of statistics.
#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "calib/observers/key_observer.h"
#include "calib/stats.h"
#include "calib/zstd_frame.h"
#include "formats/base/file.h"
#include "kernels/runtime/forward.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using testing::Fails;

// Keys as attention sees them, of all layers.
struct KeepKeys : Taps {
  bool Wants(int, ValueKind value) const override { return value == ValueKind::kK; }
  void OnRows(const TapRows& r) override {
    rows[r.layer].insert(rows[r.layer].end(), r.data, r.data + r.num_rows * r.width);
  }
  std::vector<float> rows[3];
};

CalibStats WithKeys() {
  CalibStats stats;
  stats.bos = "none";
  KeyStats keys{.layer = 2, .rows = 17};
  for (int i = 0; i < 2 * kKeyQuantiles; ++i) keys.quantiles.push_back(static_cast<float>(i) * 0.5f);
  stats.arms.push_back({.name = "plain", .keys = {keys, keys}});
  return stats;
}

}  // namespace

TEST_CASE("Shares of quantiles ascend from 0 to 1, closer at the ends, alike at both") {
  CHECK(KeyQuantileShare(0) == 0);
  CHECK(KeyQuantileShare(1) == std::ldexp(1.0, -12));
  CHECK(KeyQuantileShare(7) == 1.0 / 64);
  CHECK(KeyQuantileShare(8) == 1.0 / 32);
  CHECK(KeyQuantileShare(kKeyQuantiles / 2) == 0.5);
  for (int i = 0; i + 1 < kKeyQuantiles; ++i) {
    CHECK(KeyQuantileShare(i) < KeyQuantileShare(i + 1));
    CHECK(KeyQuantileShare(i) + KeyQuantileShare(kKeyQuantiles - 1 - i) == Approx(1).epsilon(1e-15));
  }
}

TEST_CASE("The observer's quantiles are those of the keys without their rotation, first rows left out") {
  testing::TinyModelOptions options;
  options.hidden = 64;
  options.intermediate = 48;
  options.num_layers = 3;
  options.head_dim = 16;
  options.vocab = 64;
  options.sliding_window = 8;
  options.sliding_layers = {false, true, false};
  options.rope_local = {.theta = 50};
  const auto tiny = testing::MakeTinyModel(options);
  ThreadPool pool(2);
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const ModelGraph& graph = (*model)->graph();
  std::vector<int32_t> tokens(40);
  std::iota(tokens.begin(), tokens.end(), 3);
  KeepKeys keep;
  KeyObserver observer(graph, 2, pool), thinned(graph, 2, pool, 10);
  for (Taps* taps :
       {static_cast<Taps*>(&keep), static_cast<Taps*>(&observer), static_cast<Taps*>(&thinned)}) {
    KvCache cache(graph.config, 40);
    std::vector<float> hidden(40 * 64);
    REQUIRE(Forward(**model, tokens, cache, absl::MakeSpan(hidden), {.taps = taps}).ok());
  }
  const std::vector<KeyStats> all = observer.Take(), few = thinned.Take();
  REQUIRE(all.size() == 3);
  const size_t width = 32;
  for (int l = 0; l < 3; ++l) {
    const KeyStats& stats = all[static_cast<size_t>(l)];
    CHECK(stats.layer == l);
    CHECK(stats.rows == 38);
    const double theta = l == 1 ? 50 : 10000;
    for (size_t c = 0; c < width; ++c) {
      std::vector<double> values;
      for (size_t t = 2; t < 40; ++t) {
        const size_t in_head = c % 16, pair = in_head < 8 ? c + 8 : c - 8;
        const double angle = static_cast<double>(t) * std::pow(theta, -static_cast<double>(in_head % 8) / 8);
        const double own = keep.rows[l][t * width + c], other = keep.rows[l][t * width + pair];
        values.push_back(own * std::cos(angle) + (in_head < 8 ? 1 : -1) * other * std::sin(angle));
      }
      std::sort(values.begin(), values.end());
      const auto at = [&](const KeyStats& s, int i) {
        return double{s.quantiles[static_cast<size_t>(i) * width + c]};
      };
      CHECK(at(stats, 0) == Approx(values.front()).margin(1e-5));
      CHECK(at(stats, kKeyQuantiles - 1) == Approx(values.back()).margin(1e-5));
      CHECK(at(stats, kKeyQuantiles / 2) == Approx((values[18] + values[19]) / 2).margin(1e-5));
      // Thinned, the ends are still those of all rows.
      CHECK(at(few[static_cast<size_t>(l)], 0) == at(stats, 0));
      CHECK(at(few[static_cast<size_t>(l)], kKeyQuantiles - 1) == at(stats, kKeyQuantiles - 1));
      for (int i = 0; i + 1 < kKeyQuantiles; ++i) {
        CHECK(at(few[static_cast<size_t>(l)], i) <= at(few[static_cast<size_t>(l)], i + 1));
      }
    }
  }
}

TEST_CASE("Keys' quantiles read back equal, and a file from before them has none") {
  const testing::TempDirectory dir;
  const std::string path = dir / "scan.spike";
  const CalibStats stats = WithKeys();
  REQUIRE(SaveStats(stats, path).ok());
  const auto back = LoadStats(path);
  REQUIRE(back.ok());
  REQUIRE(back->arms[0].keys.size() == 2);
  CHECK(back->arms[0].keys[1].layer == 2);
  CHECK(back->arms[0].keys[1].rows == 17);
  CHECK(back->arms[0].keys[1].quantiles == stats.arms[0].keys[1].quantiles);

  std::string content = *ReadZstdFrame(*ReadFileToString(path, 1 << 24), path);
  const auto save = [&](const std::string& changed) {
    auto writer = *ZstdFrameWriter::Create(changed.size());
    REQUIRE(writer->Append(changed).ok());
    REQUIRE(WriteFileAtomically(path, *writer->Finish()).ok());
    return LoadStats(path);
  };
  // A name that this version does not know stands for one that the older one did not write.
  const auto older = save(absl::StrReplaceAll(content, {{"\\\"keys\\\"", "\\\"kxys\\\""}}));
  REQUIRE(older.ok());
  CHECK(older->arms[0].keys.empty());
  CHECK_THAT(save(absl::StrReplaceAll(content, {{"keys1.quantiles", "keys7.quantiles"}})).status(),
             Fails(absl::StatusCode::kDataLoss, "tensor arm0.keys1.quantiles is missing"));
  CHECK_THAT(save(absl::StrReplaceAll(content, {{"\\\"rows\\\":17", "\\\"rows\\\":-7"}})).status(),
             Fails(absl::StatusCode::kDataLoss, "keys of no layer or of no rows"));
}

}  // namespace spikefold
