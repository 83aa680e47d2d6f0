#include "calib/census.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "calib/census_weights.h"
#include "calib/dataset.h"
#include "calib/observers/life_observer.h"
#include "calib/recalibrate.h"
#include "calib/spike_stages.h"
#include "formats/base/file.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using testing::MakeTinyModel;
using testing::TinyModel;
using testing::TinyModelOptions;
using testing::WordTokenizer;

// Words "t0".."t255"; the token 7 once in every 40, at position 0 of every other window of 64.
std::string PlantedText(int64_t tokens, int32_t spike) {
  std::string text;
  uint32_t state = 1;
  for (int64_t i = 0; i < tokens; ++i) {
    state = state * 1664525u + 1013904223u;
    int32_t id = static_cast<int32_t>((state >> 8) % 255);
    if (id >= spike) ++id;  // never the spike token by chance
    if (i % 64 == 20 || i % 128 == 0) id = spike;
    absl::StrAppend(&text, i ? " " : "", "t", id);
  }
  return text;
}

struct Scanned {
  TinyModel tiny;
  ScanResult result;
};
Scanned ScanTiny(const TinyModelOptions& options, int64_t windows, const char* name) {
  static ThreadPool pool(2);
  Scanned out{.tiny = MakeTinyModel(options), .result = {}};
  const auto model = LoadModel(*out.tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const std::string path = absl::StrCat("/tmp/spikefold_census_test_", getpid(), "_", name);
  REQUIRE(WriteFileAtomically(path, PlantedText(windows * 64, 7)).ok());
  auto scanned = Scan(**model, *out.tiny.checkpoint, WordTokenizer(options.vocab),
                      {.num_windows = windows, .window_length = 64, .texts = {path}});
  unlink(path.c_str());
  CAPTURE(scanned.status().ToString());
  REQUIRE(scanned.ok());
  out.result = *std::move(scanned);
  return out;
}

}  // namespace

TEST_CASE("The census of a planted model names exactly what was planted") {
  const Scanned s = ScanTiny({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3}, 16, "planted");
  const OutlierMap& map = s.result.map;
  const auto& planted = s.tiny.planted;
  CHECK(map.treatment_needed);
  REQUIRE(map.stages.size() == 1);
  const SpikeStage& stage = map.stages[0];
  CHECK(stage.step_up == planted.step_up);
  CHECK(stage.step_down == planted.step_down);
  REQUIRE(stage.channels.size() == 2);
  for (size_t c = 0; c < 2; ++c) {
    CHECK(stage.channels[c].channel == planted.channels[c]);
    CHECK(stage.channels[c].peak == Approx(planted.heights[c]).epsilon(0.01));
    CHECK(stage.channels[c].leader == (c == 0));
  }
  CHECK(stage.plateau == Approx(planted.heights[0]).epsilon(0.01));
  REQUIRE(stage.tokens.size() == 1);
  CHECK(stage.tokens[0].first == "t7");
  CHECK(stage.tokens[0].second == 1.0);
  CHECK(stage.per_window == 1.0);
  CHECK(stage.first_position_share == 1.0);  // the plain windows: every other one, all starting with t7
  CHECK(stage.near_constancy > 0.999);
  REQUIRE(stage.writers.size() == 1);
  CHECK(stage.writers[0].unit == planted.writer_unit);
  CHECK(stage.writers[0].layer == planted.step_up);
  CHECK(stage.writers[0].channel == planted.channels[0]);
  CHECK(stage.writers[0].by_activations);
  REQUIRE(stage.removers.size() == 1);
  CHECK(stage.removers[0].unit == planted.remover_unit);
  CHECK(stage.removers[0].layer == planted.step_down);
  // The writer's weight on the leader is a super weight.
  const bool super = std::any_of(map.super_weights.begin(), map.super_weights.end(), [&](const auto& w) {
    return w.layer == planted.step_up && w.row == planted.channels[0] && w.column == planted.writer_unit &&
           w.by_activations;
  });
  CHECK(super);
  // Sinks: the planted heads and no others, at a mass of about 0.9.
  for (const auto& [layer, head] : planted.sink_heads) {
    CHECK(map.sinks_plain.mass[static_cast<size_t>(layer * map.sinks_plain.num_heads + head)] > 0.3);
  }
  CHECK(map.sinks_plain.ratio == Approx(static_cast<double>(planted.sink_heads.size()) /
                                        static_cast<double>(map.sinks_plain.mass.size())));
  // All plain windows begin with the same token, so its value is one vector; other tokens' values are not.
  REQUIRE(map.sinks_plain.value_variation.size() == 5);
  for (const double variation : map.sinks_plain.value_variation) CHECK(variation < 1e-6);
  for (const double variation : map.sinks_plain.other_value_variation) CHECK(variation > 0.1);
  CHECK_FALSE(map.probes.made);
  CHECK(map.life_bos.empty());
  CHECK_FALSE(map.prefixes.empty());  // tried, but here the token spikes wherever it stands
  CHECK(map.prefix.empty());
  for (const PrefixCandidate& candidate : map.prefixes) CHECK_FALSE(candidate.reason.empty());
  CHECK(s.result.stats.arms.size() == 1);
  CHECK(s.result.stats.arms[0].sites[0].rows == 16 * 64);
}

TEST_CASE("Calibrating again on a scan's own text sees what the scan saw, and a prefix changes it") {
  Scanned s = ScanTiny({.spike_channels = {70}, .step_up = 1, .step_down = 3}, 4, "recalibrate");
  ThreadPool pool(2);
  const auto model = LoadModel(*s.tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  CalibStats& scan = s.result.stats;
  CHECK(scan.windows.size() == 4);
  const auto again = Recalibrate(**model, *s.tiny.checkpoint, scan, {});
  REQUIRE(again.ok());
  for (size_t i = 0; i < scan.arms[0].sites.size(); ++i) {
    const SiteStats &a = scan.arms[0].sites[i], &b = again->arms[0].sites[i];
    CHECK(a.histogram == b.histogram);
    CHECK(a.max == b.max);
    CHECK(a.weight_sq == b.weight_sq);
    CHECK(a.rows == b.rows);
  }
  CHECK(Recalibrate(**model, *s.tiny.checkpoint, scan, {.behind_prefix = true}).status().code() ==
        absl::StatusCode::kInvalidArgument);
  scan.prefix.tokens = {7};
  const auto behind =
      Recalibrate(**model, *s.tiny.checkpoint, scan, {.behind_prefix = true, .max_windows = 2});
  REQUIRE(behind.ok());
  CHECK(behind->FindArm("prefix") != nullptr);
  CHECK(behind->prefix.k.size() == 5);
  CHECK(behind->windows == scan.windows);  // all, though two were run
  CHECK(behind->arms[0].sites[0].rows == 2 * 64);
  CHECK(behind->arms[0].sites[0].histogram != again->arms[0].sites[0].histogram);
}

TEST_CASE("Other channels, layers and tokens are found as well") {
  const Scanned s = ScanTiny(
      {.num_layers = 7, .seed = 9, .spike_channels = {5}, .betas = {3}, .step_up = 0, .step_down = 5}, 8,
      "other");
  const OutlierMap& map = s.result.map;
  REQUIRE(map.stages.size() == 1);
  CHECK(map.stages[0].step_up == 0);
  CHECK(map.stages[0].step_down == 5);
  REQUIRE(map.stages[0].channels.size() == 1);
  CHECK(map.stages[0].channels[0].channel == 5);
}

TEST_CASE("A model without spikes needs no treatment and gets no prefix") {
  const Scanned s = ScanTiny({}, 8, "none");
  const OutlierMap& map = s.result.map;
  CHECK_FALSE(map.treatment_needed);
  CHECK(map.stages.empty());
  CHECK(map.super_weights.empty());
  CHECK(map.warnings.empty());
  CHECK(map.prefixes.empty());
  CHECK(map.prefix.empty());
  CHECK(absl::StartsWith(map.verdict, "No treatment needed"));
  CHECK(map.sinks_plain.ratio == 0);
}

TEST_CASE("Two stages on one channel are told apart by the valley between them, and slopes are no stages") {
  LifeTable table{.num_layers = 12, .hidden = 3};
  const double height[] = {1,     1,     200,   800,  790, 600, 90,
                           24000, 24000, 23000, 9000, 300, 300};  // embedding first
  for (const double h : height) {
    table.channel_peak.push_back({h, 20, 3});
    table.typical_peak.push_back(20);
    table.row_peak.push_back({static_cast<float>(h), 20, 20});
    table.row_channel.push_back({h > 20 ? 0 : 1, 1, 1});
  }
  const std::vector<StageShape> stages = FindStages(table);
  REQUIRE(stages.size() == 2);
  CHECK(stages[0].step_up == 2);
  CHECK(stages[0].step_down == 5);
  CHECK(stages[1].step_up == 6);
  CHECK(stages[1].step_down == 9);
  // A canary: a stage that is never taken away ends with the model, and a low one is none.
  for (size_t l = 8; l < 13; ++l) table.channel_peak[l][0] = table.row_peak[l][0] = 24000;
  CHECK(FindStages(table)[1].step_down == 12);
  for (auto& peaks : table.channel_peak) peaks[0] = std::min(peaks[0], 150.0);
  CHECK(FindStages(table).empty());
}

TEST_CASE("The weight census finds planted neurons without any text") {
  const TinyModel tiny = MakeTinyModel({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3});
  ThreadPool pool(2);
  const auto census = CensusWeights(*tiny.checkpoint, pool, {});
  REQUIRE(census.ok());
  for (int l = 0; l < 5; ++l) {
    for (int64_t i = 0; i < 256; ++i) {
      const bool planted =
          (l == 1 && i == tiny.planted.writer_unit) || (l == 3 && i == tiny.planted.remover_unit);
      CHECK((census->Relative(l, i) >= kFlagRelative) == planted);
    }
  }
  CHECK(census->units[1][static_cast<size_t>(tiny.planted.writer_unit)].channel == 70);
  const Tensor v = tiny.checkpoint->ReadF32("model.layers.2.self_attn.v_proj.weight").value();
  const Tensor q = tiny.checkpoint->ReadF32("model.layers.2.self_attn.q_proj.weight").value();
  const Tensor k = tiny.checkpoint->ReadF32("model.layers.2.self_attn.k_proj.weight").value();
  double squares = 0;
  for (const Tensor* w : {&v, &q, &k}) {
    for (int64_t n = 0; n < w->dim(0); ++n)
      squares += std::pow(static_cast<double>(w->as<float>()[static_cast<size_t>(n * w->dim(1) + 11)]), 2);
  }
  for (const Site& site : tiny.checkpoint->graph().sites) {
    if (site.layer == 2 && site.value == ValueKind::kAttnIn) {
      CHECK(census->site_weight_sq[static_cast<size_t>(site.id)][11] == Approx(squares));
    }
  }
}

TEST_CASE("The outlier map reads back equal, and another model's is refused") {
  const Scanned s = ScanTiny({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3}, 8, "json");
  const ModelGraph& graph = s.tiny.checkpoint->graph();
  const Json json = OutlierMapToJson(s.result.map, graph);
  const auto parsed = ParseJson(json.Dump(2), "outliers.json");
  REQUIRE(parsed.ok());
  const auto back = OutlierMapFromJson(*parsed, graph, "outliers.json");
  CAPTURE(back.status().ToString());
  REQUIRE(back.ok());
  CHECK(OutlierMapToJson(*back, graph).Dump() == json.Dump());
  const TinyModel other = MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2});
  const auto refused = OutlierMapFromJson(*parsed, other.checkpoint->graph(), "outliers.json");
  CHECK(refused.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(
      refused.status().message() ==
      "outliers.json: made from a model of 5 layers of 512 channels; this one has 2 of 64; scan this model");
  Json broken = *parsed;
  broken.Set("stages", "none");
  CHECK(OutlierMapFromJson(broken, graph, "outliers.json").status().message() ==
        "outliers.json: \"stages\" is missing or no list; scan again");
  broken.Set("format_version", 9);
  CHECK(OutlierMapFromJson(broken, graph, "x").status().code() == absl::StatusCode::kUnimplemented);
}

TEST_CASE("A layer, row or channel of the outlier map that the model has not is refused") {
  const TinyModel tiny = MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2});
  const ModelGraph& graph = tiny.checkpoint->graph();
  OutlierMap good;
  good.num_layers = 2;
  good.hidden = 64;
  good.stages = {{.step_up = 0, .step_down = 2, .channels = {{.channel = 0}, {.channel = 63}}}};
  good.super_weights = {{.layer = 1, .row = 63, .column = 95}};
  REQUIRE(OutlierMapFromJson(OutlierMapToJson(good, graph), graph, "m").ok());
  const auto refused = [&](const std::function<void(OutlierMap&)>& spoil, const std::string& message) {
    OutlierMap map = good;
    spoil(map);
    CHECK_THAT(OutlierMapFromJson(OutlierMapToJson(map, graph), graph, "m").status(),
               testing::Fails(absl::StatusCode::kDataLoss, absl::StrCat("m: ", message)));
  };
  const auto stage = [&](const SpikeStage& s, const std::string& message) {
    refused([&](OutlierMap& map) { map.stages[0] = s; }, message);
  };
  stage({.step_up = -1, .step_down = 1}, "a stage from layer -1 to 1; the model has 2");
  stage({.step_up = 2, .step_down = 1}, "a stage from layer 2 to 1; the model has 2");
  stage({.step_up = 0, .step_down = 3}, "a stage from layer 0 to 3; the model has 2");
  stage({.channels = {{.channel = 1'000'000'000}}}, "a stage with channel 1000000000; the model has 64");
  stage({.channels = {{.channel = -1}}}, "a stage with channel -1; the model has 64");
  stage({.channels = std::vector<SpikeChannel>(64)}, "a stage of 64 channels; the model has 64");
  const auto super = [&](const SuperWeightRef& w, const std::string& at) {
    refused([&](OutlierMap& map) { map.super_weights.push_back(w); },
            absl::StrCat("a super weight of ", at, "; the model has 2 layers of [64, 96]"));
  };
  super({.layer = 2}, "layer 2 at row 0, column 0");
  super({.layer = -1}, "layer -1 at row 0, column 0");
  super({.row = 64}, "layer 0 at row 64, column 0");
  super({.column = 96}, "layer 0 at row 0, column 96");
  super({.column = -100'000'000}, "layer 0 at row 0, column -100000000");
}

TEST_CASE("Without a file the model writes its own text, the same for the same seed") {
  ThreadPool pool(2);
  const TinyModel tiny = MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64});
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const WordTokenizer tokenizer(64);
  const auto a = GenerateText(**model, tokenizer, 3, 10, 5, {});
  const auto b = GenerateText(**model, tokenizer, 3, 10, 5, {});
  const auto c = GenerateText(**model, tokenizer, 3, 10, 6, {});
  REQUIRE((a.ok() && b.ok() && c.ok()));
  CHECK(a->ids.size() == 30);
  CHECK(a->ids == b->ids);
  CHECK(a->sha256 == b->sha256);
  CHECK(a->ids != c->ids);
  CHECK(a->source == "generated by the model, seed 5");
  const auto scanned = Scan(**model, *tiny.checkpoint, tokenizer, {.num_windows = 2, .window_length = 16});
  REQUIRE(scanned.ok());
  CHECK_FALSE(scanned->map.treatment_needed);
}

TEST_CASE("A scan that cannot run is refused before it starts") {
  ThreadPool pool(1);
  const TinyModel tiny =
      MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 1, .max_positions = 32});
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const auto refused = Scan(**model, *tiny.checkpoint, WordTokenizer(256), {});
  CHECK(refused.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(refused.status().message() ==
        "scan: windows of 512 tokens; the model allows 32 positions; use shorter windows");
}

}  // namespace spikefold
