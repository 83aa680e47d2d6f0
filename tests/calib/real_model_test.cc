// The census and the perplexity of real models. Needs `make models`.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "calib/census.h"
#include "calib/dataset.h"
#include "calib/evaluate.h"
#include "formats/base/file.h"

namespace spikefold {
namespace {

struct Loaded {
  std::unique_ptr<CheckpointReader> reader;
  std::unique_ptr<RuntimeModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
};
Loaded Open(const char* file) {
  static ThreadPool pool(DefaultNumThreads());
  Loaded out;
  auto reader = CheckpointReader::Open(JoinPath(SPIKEFOLD_MODELS, file));
  REQUIRE(reader.ok());
  auto model = LoadModel(**reader, {.pool = &pool});
  REQUIRE(model.ok());
  auto tokenizer = (*reader)->LoadTokenizer();
  REQUIRE(tokenizer.ok());
  out.reader = *std::move(reader);
  out.model = *std::move(model);
  out.tokenizer = *std::move(tokenizer);
  return out;
}
constexpr char kSmolLm2[] = "smollm2-135m-instruct-q4_1.gguf";
constexpr char kGemma3[] = "gemma-3-270m-q4_k_m.gguf";
const char* const kText = SPIKEFOLD_TEST_DATA "/wiki.test.raw";

// cumulative[chunks - 1] of the case with a float32 cache.
double LlamaCppPerplexity(const char* model, size_t chunks) {
  const auto bytes = ReadFileToString(SPIKEFOLD_TEST_DATA "/oracle/perplexity.json", 1 << 20);
  REQUIRE(bytes.ok());
  const auto json = ParseJson(*bytes, "perplexity.json");
  REQUIRE(json.ok());
  for (const Json& c : json->Find("cases")->array()) {
    if (c.Find("model")->string_value() == model && c.Find("kv_cache")->string_value() == "f32") {
      return c.Find("cumulative")->array()[chunks - 1].number_value();
    }
  }
  FAIL("no such case");
  return 0;
}

bool Names(const std::vector<UnitRef>& units, int layer, int64_t unit) {
  return std::any_of(units.begin(), units.end(), [&](const UnitRef& u) {
    return u.layer == layer && u.unit == unit && u.by_activations && u.by_weights;
  });
}

}  // namespace

TEST_CASE("SmolLM2's perplexity under llama.cpp's protocol is llama.cpp's") {
  const Loaded m = Open(kSmolLm2);
  const auto text = TokenizeFiles(*m.tokenizer, {kText});
  REQUIRE(text.ok());
  CHECK(text->sha256 == "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08");
  CHECK(text->ids.size() == 303415);
  const auto r =
      Evaluate(*m.model, *m.model, *m.tokenizer, *text, {.protocol = Protocol::kLlamaCpp, .max_windows = 4});
  REQUIRE(r.ok());
  CHECK(r->num_scored == 4 * 255);
  CHECK(r->ppl == Approx(LlamaCppPerplexity(kSmolLm2, 4)).epsilon(0.0005));
  // A canary: one chunk more is told apart.
  CHECK(std::fabs(LlamaCppPerplexity(kSmolLm2, 5) / r->ppl - 1) > 0.005);
}

TEST_CASE("Gemma-3's perplexity with its BOS is llama.cpp's") {
  const Loaded m = Open(kGemma3);
  const auto text = TokenizeFiles(*m.tokenizer, {kText});
  REQUIRE(text.ok());
  const auto r =
      Evaluate(*m.model, *m.model, *m.tokenizer, *text, {.protocol = Protocol::kLlamaCpp, .max_windows = 2});
  REQUIRE(r.ok());
  CHECK(r->bos == BosMode::kWindow);
  CHECK(r->ppl == Approx(LlamaCppPerplexity(kGemma3, 2)).epsilon(0.0005));
}

TEST_CASE("The census of SmolLM2 finds both stages, who writes and who removes them, and a prefix") {
  const Loaded m = Open(kSmolLm2);
  // Census only: the text is the test set's, no scale is kept.
  const auto scanned =
      Scan(*m.model, *m.reader, *m.tokenizer, {.num_windows = 8, .window_length = 256, .texts = {kText}});
  REQUIRE(scanned.ok());
  const OutlierMap& map = scanned->map;
  CHECK(map.treatment_needed);
  REQUIRE(map.stages.size() == 2);
  const SpikeStage &first = map.stages[0], &second = map.stages[1];
  CHECK(first.step_up == 2);
  CHECK(first.step_down == 9);
  CHECK(first.plateau == Approx(800).epsilon(0.15));
  CHECK(first.channels.front().channel == 507);
  REQUIRE_FALSE(first.tokens.empty());
  CHECK(first.tokens.front().first == " the");
  CHECK(Names(first.writers, 2, 90));
  CHECK(Names(first.writers, 2, 430));
  CHECK(first.writers.size() == 2);
  CHECK(Names(first.removers, 9, 200));
  CHECK(second.step_up == 11);
  CHECK(second.step_down == 28);
  CHECK(second.plateau == Approx(24000).epsilon(0.1));
  CHECK(second.channels.front().channel == 507);
  CHECK(second.channels[1].channel == 247);
  CHECK(second.first_position_share == 1);
  CHECK(second.near_constancy > 0.999);
  CHECK(Names(second.writers, 11, 1229));
  CHECK(Names(second.writers, 11, 1487));
  CHECK(second.writers.size() == 2);
  CHECK(Names(second.removers, 28, 678));
  CHECK(second.removers.size() == 1);
  CHECK(map.sinks_plain.ratio > 0.72);
  CHECK(map.sinks_plain.ratio < 0.85);
  REQUIRE_FALSE(map.prefix.empty());
  for (const PrefixCandidate& candidate : map.prefixes) {
    if (candidate.chosen) CHECK(candidate.ppl_ratio <= 1.01);
    CHECK(candidate.tokens.size() >= 2);  // one alone spikes again in a text that begins with it
  }
  const auto worst = std::max_element(map.sites.begin(), map.sites.end(),
                                      [](const auto& a, const auto& b) { return a.score < b.score; });
  CHECK(m.reader->graph().sites[static_cast<size_t>(worst->site)].name == "layers.11.down_in");
  CHECK(worst->score > 1000);
  CHECK(worst->score_prefix < 64);
  const StatsArm* arm = scanned->stats.FindArm("prefix");
  REQUIRE(arm != nullptr);
  CHECK(arm->sites[0].rows == 4 * 256);
  CHECK(scanned->stats.prefix.k.size() == 30);
}

TEST_CASE("Gemma-3 keeps its spikes to the last layer, and BOS is its prefix") {
  const Loaded m = Open(kGemma3);
  const auto scanned =
      Scan(*m.model, *m.reader, *m.tokenizer, {.num_windows = 4, .window_length = 128, .texts = {kText}});
  REQUIRE(scanned.ok());
  const OutlierMap& map = scanned->map;
  REQUIRE(map.stages.size() == 2);
  CHECK(map.stages[0].step_up == 0);
  CHECK(map.stages[0].channels.front().channel == 400);
  CHECK(map.stages[1].step_up == 5);
  CHECK(map.stages[1].step_down == 18);  // never removed
  CHECK(map.stages[1].channels.front().channel == 163);
  CHECK(map.prefix == std::vector<int32_t>{2});
  CHECK(map.sinks_bos.ratio > 0.7);
  CHECK(map.sinks_plain.ratio < 0.1);
  CHECK(map.notes.size() >= 3);  // sandwich norm, QK-norm, beyond float16
  CHECK(scanned->stats.bos == "window");
}

}  // namespace spikefold
