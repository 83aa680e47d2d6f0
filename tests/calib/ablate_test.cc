// The interventions on a model whose spikes and sinks are planted.
#include "calib/ablate.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "calib/ablation_edits.h"
#include "formats/base/file.h"
#include "kernels/runtime/forward.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using testing::MakeTinyModel;
using testing::TinyModel;
using testing::WordTokenizer;

constexpr int64_t kWindow = 64, kWindows = 8;

// Words "t0".."t255"; each window of 64 begins with the token that spikes, which stands nowhere else.
std::string Text() {
  std::string text;
  uint32_t state = 1;
  for (int64_t i = 0; i < kWindows * kWindow; ++i) {
    state = state * 1664525u + 1013904223u;
    int32_t id = static_cast<int32_t>((state >> 8) % 255);
    if (id >= 7) ++id;
    absl::StrAppend(&text, i ? " " : "", "t", i % kWindow == 0 ? 7 : id);
  }
  return text;
}

AblationResult AblateTiny(const testing::TinyModelOptions& options, OutlierMap* map = nullptr) {
  static ThreadPool pool(2);
  const TinyModel tiny = MakeTinyModel(options);
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const std::string path = absl::StrCat("/tmp/spikefold_ablate_test_", getpid());
  REQUIRE(WriteFileAtomically(path, Text()).ok());
  const WordTokenizer tokenizer(options.vocab);
  const auto scan =
      Scan(**model, *tiny.checkpoint, tokenizer,
           {.num_windows = kWindows, .window_length = kWindow, .texts = {path}, .allow_prefix = false});
  REQUIRE(scan.ok());
  const auto text = TokenizeFiles(tokenizer, {path});
  unlink(path.c_str());
  REQUIRE(text.ok());
  const auto result =
      Ablate(**model, tokenizer, scan->map, scan->stats, *text, {.num_windows = 4, .context = kWindow});
  INFO(result.status());
  REQUIRE(result.ok());
  if (map != nullptr) *map = scan->map;
  return *result;
}

const AblationArm& Find(const AblationResult& result, int stage, AblationEdit edit, bool control) {
  for (const AblationArm& arm : result.arms) {
    if (arm.stage == stage && arm.edit == edit && arm.control == control) return arm;
  }
  FAIL("no such arm");
  return result.arms.front();
}

TEST_CASE("A planted spike that is set to zero changes the model, its mean and random zeros hardly do") {
  OutlierMap map;
  const AblationResult r = AblateTiny({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3}, &map);
  REQUIRE(map.stages.size() == 1);
  CHECK(r.num_windows == 4);
  CHECK(r.num_scored == 4 * 63);
  CHECK(r.arms.size() == 8 + 8 + 8);
  const double zero = Find(r, 0, AblationEdit::kZero, false).result.kld_mean;
  const double mean = Find(r, 0, AblationEdit::kMean, false).result.kld_mean;
  CHECK(zero > 100 * mean);
  for (const AblationEdit edit :
       {AblationEdit::kZero, AblationEdit::kMean, AblationEdit::kShuffle, AblationEdit::kNoise}) {
    const AblationArm &arm = Find(r, 0, edit, false), &control = Find(r, 0, edit, true);
    CHECK(arm.per_window == 2);  // one row, two channels
    CHECK(control.per_window == 2);
    CHECK(control.result.kld_mean > 0);  // a canary: the control does change something
    CHECK(control.result.kld_mean < 0.1 * zero);
  }
  // Heights that change places point the row elsewhere.
  CHECK(Find(r, 0, AblationEdit::kShuffle, false).result.kld_mean > 10 * mean);
}

TEST_CASE("A sink that is hidden or whose values are zero changes the model, unlike another token") {
  const AblationResult r = AblateTiny({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3});
  for (const AblationEdit edit : {AblationEdit::kHide, AblationEdit::kHideLate}) {
    CHECK(Find(r, -1, edit, false).result.kld_mean > 10 * Find(r, -1, edit, true).result.kld_mean);
  }
  // The same token at the first place of every window: its mean is its value.
  CHECK(Find(r, -1, AblationEdit::kMean, false).result.kld_mean < 1e-9);
  CHECK(Find(r, -1, AblationEdit::kMean, false).per_window == 1);
  CHECK(Find(r, -1, AblationEdit::kZero, false).result.kld_mean > 0);
}

TEST_CASE("A control's shuffle of one channel always moves it") {
  OutlierMap map;
  map.stages = {{.step_up = 0, .plateau = 800, .channels = {{.channel = 0, .peak = 800, .leader = true}}}};
  const AblationObserver seen(map, {.hidden = 3});
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SpikeEdit edit(map.stages[0], {.stage = 0, .edit = AblationEdit::kShuffle, .control = true}, seen, seed);
    std::vector<float> rows = {800, 1, 2, 0, 1, 2};  // [2, 3]: a spike row and another
    edit.Edit(0, ValueKind::kResidual, rows.data(), 2, 3, 0);
    CHECK(rows == std::vector<float>{800, 1, 2, 0, 2, 1});
  }
}

TEST_CASE("A model without spikes is only asked about its sink") {
  const AblationResult r = AblateTiny({});
  CHECK(r.arms.size() == 6 + 8);
  for (const AblationArm& arm : r.arms) CHECK(arm.stage == -1);
}

TEST_CASE("The sink's own row is what it was when its values are changed for others") {
  static ThreadPool pool(2);
  const TinyModel tiny = MakeTinyModel({.spike_channels = {70}});
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const ModelConfig& config = (*model)->graph().config;
  const AblationObserver nothing({}, config);
  const std::vector<int32_t> tokens = {7, 1, 2, 3};
  const size_t d = static_cast<size_t>(config.hidden);
  const auto run = [&](Interventions* edits) {
    KvCache cache(config, 4);
    std::vector<float> hidden(4 * d);
    REQUIRE(Forward(**model, tokens, cache, absl::MakeSpan(hidden), {.interventions = edits}).ok());
    return hidden;
  };
  SinkEdit zero(config, {.edit = AblationEdit::kZero}, 0, nothing, 1);
  zero.Begin(4);
  const std::vector<float> before = run(nullptr), after = run(&zero);
  for (size_t i = 0; i < d; ++i) REQUIRE(after[i] == Approx(before[i]).margin(1e-5));
  CHECK_FALSE(std::equal(before.begin() + static_cast<int64_t>(d), before.end(),
                         after.begin() + static_cast<int64_t>(d)));
}

TEST_CASE("The head whose context is a constant is found and becomes its mean, the others stay") {
  ModelConfig config;
  config.num_layers = 2;
  config.num_heads = 3;
  config.num_kv_heads = 3;
  config.head_dim = 2;
  config.hidden = 6;
  AblationObserver seen({}, config);
  // Rows of two windows; head 2 of layer 1 is (4, -5) but in a window's first row.
  const std::vector<float> varied = {9, 9, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6, -1, 3, 2, -4, 5, -6};
  std::vector<float> constant = varied;
  for (size_t t = 1; t < 3; ++t) {
    constant[t * 6 + 4] = 4;
    constant[t * 6 + 5] = -5;
  }
  for (int window = 0; window < 2; ++window) {
    seen.OnRows({.layer = 0, .value = ValueKind::kCtx, .data = varied.data(), .num_rows = 3, .width = 6});
    seen.OnRows({.layer = 1, .value = ValueKind::kCtx, .data = constant.data(), .num_rows = 3, .width = 6});
  }
  for (const HeadVariation& h : VariationOfHeads(config, seen)) {
    CHECK((h.share < 1e-12) == (h.layer == 1 && h.head == 2));
  }
  HeadEdit mean(config, {.edit = AblationEdit::kMean, .heads = 1}, seen, 1);
  CHECK(mean.Wants(1, ValueKind::kCtx));
  CHECK_FALSE(mean.Wants(0, ValueKind::kCtx));
  std::vector<float> rows = varied;
  mean.Edit(1, ValueKind::kCtx, rows.data(), 3, 6, 0);
  for (size_t t = 0; t < 3; ++t) {
    CHECK(std::equal(rows.begin() + static_cast<int64_t>(t * 6),
                     rows.begin() + static_cast<int64_t>(t * 6 + 4),
                     varied.begin() + static_cast<int64_t>(t * 6)));
    CHECK(rows[t * 6 + 4] == 4);
    CHECK(rows[t * 6 + 5] == -5);
  }
}

}  // namespace
}  // namespace spikefold
