#include "calib/evaluate.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "calib/eval_summary.h"
#include "calib/eval_windows.h"
#include "calib/paired_stats.h"
#include "calib/parity.h"
#include "calib/score_rows.h"
#include "kernels/runtime/forward.h"
#include "tests/testing/reference_model.h"
#include "tests/testing/tiny_model.h"

namespace spikefold {
namespace {

using testing::MakeTinyModel;
using testing::TinyModel;
using testing::WordTokenizer;

std::vector<int32_t> Count(int n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}
int64_t NumScored(const EvalWindows& w) {
  int64_t n = 0;
  for (const EvalWindow& window : w.windows) n += window.num_scored();
  return n;
}
// The tokens that are scored, window by window.
std::vector<int32_t> Scored(const std::vector<EvalWindow>& windows) {
  std::vector<int32_t> out;
  for (const EvalWindow& w : windows) out.insert(out.end(), w.tokens.begin() + w.score_from, w.tokens.end());
  return out;
}

TokenStream RandomText(int64_t count, int32_t vocab, uint32_t seed) {
  TokenStream text;
  uint32_t state = seed;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    text.ids.push_back(static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(vocab)));
  }
  text.source = "random";
  return text;
}

}  // namespace

TEST_CASE("The paper's protocol scores all but the first token of whole windows") {
  EvalOptions options{.protocol = Protocol::kPaper};
  const auto plan = MakeEvalWindows(Count(2048 * 3 + 100), 1, false, options);
  REQUIRE(plan.ok());
  CHECK(plan->windows.size() == 3);
  CHECK(NumScored(*plan) == 3 * 2047);
  options.context = 10;
  options.max_windows = 2;
  const auto cut = MakeEvalWindows(Count(99), 1, false, options);
  REQUIRE(cut.ok());
  CHECK(cut->windows.size() == 2);
  CHECK(cut->windows[1].tokens.front() == 10);
}

TEST_CASE("BOS once stands before the text, BOS a window makes it longer and scores the same tokens") {
  EvalOptions options{.context = 4};
  const auto ids = Count(12);
  const auto none = MakeEvalWindows(ids, 99, false, options);
  options.bos = BosMode::kOnce;
  const auto once = MakeEvalWindows(ids, 99, false, options);
  options.bos = BosMode::kWindow;
  const auto window = MakeEvalWindows(ids, 99, false, options);
  REQUIRE((none.ok() && once.ok() && window.ok()));
  CHECK(once->windows[0].tokens == std::vector<int32_t>{99, 0, 1, 2});
  CHECK(once->windows[1].tokens == std::vector<int32_t>{3, 4, 5, 6});
  CHECK(window->windows[1].tokens == std::vector<int32_t>{99, 4, 5, 6, 7});
  CHECK(Scored(window->windows) == Scored(none->windows));
}

TEST_CASE("llama.cpp's protocol scores the second half and lets BOS overwrite the first token") {
  EvalOptions options{.protocol = Protocol::kLlamaCpp};
  const auto plan = MakeEvalWindows(Count(512 * 2), 7, false, options);
  REQUIRE(plan.ok());
  CHECK(NumScored(*plan) == 2 * 255);
  CHECK(plan->windows[0].tokens[static_cast<size_t>(plan->windows[0].score_from)] == 257);
  CHECK(plan->windows[1].tokens.front() == 512);
  const auto with_bos = MakeEvalWindows(Count(512 * 2), 7, true, options);
  REQUIRE(with_bos.ok());
  CHECK(with_bos->bos == BosMode::kWindow);
  CHECK(with_bos->windows[0].tokens[1] == 0);  // BOS before the text shifts it by one
  CHECK(with_bos->windows[1].tokens[0] == 7);
  CHECK(with_bos->windows[1].tokens[1] == 512);
}

TEST_CASE("Behind a prefix that holds BOS no window doubles it and the same tokens are scored") {
  for (const Protocol protocol : {Protocol::kChunks, Protocol::kPaper, Protocol::kLlamaCpp}) {
    for (const BosMode bos : {BosMode::kNone, BosMode::kOnce, BosMode::kWindow}) {
      auto plan = MakeEvalWindows(Count(40), 99, false, {.protocol = protocol, .bos = bos, .context = 8});
      REQUIRE(plan.ok());
      const std::vector<EvalWindow> behind = DropLeadingBos(plan->windows);
      CHECK(Scored(behind) == Scored(plan->windows));
      for (const EvalWindow& w : behind) {
        CHECK(w.tokens.front() != 99);
        CHECK(w.score_from >= 1);
      }
    }
  }
}

TEST_CASE("Texts, contexts and BOS modes that cannot be run are refused") {
  const auto short_text = MakeEvalWindows(Count(300), -1, false, {.context = 512});
  CHECK(short_text.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(short_text.status().message() ==
        "text: 300 tokens; one window needs 512; give more text or a shorter context");
  const auto no_bos = MakeEvalWindows(Count(600), -1, false, {.bos = BosMode::kWindow});
  CHECK(no_bos.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(no_bos.status().message() == "BOS mode: the tokenizer has no BOS token; use the mode \"none\"");
  CHECK(MakeEvalWindows(Count(600), -1, false, {.context = 1}).status().code() ==
        absl::StatusCode::kInvalidArgument);
}

TEST_CASE("Percentiles interpolate linearly and errors are those computed by hand") {
  const std::vector<double> values = {1, 2, 4, 8};
  CHECK(Quantile(values, 0.5) == Approx(3.0));
  CHECK(Quantile(values, 0.9) == Approx(4 + 0.7 * 4));
  CHECK(Quantile(values, 0.1) == Approx(1.3));
  const Percentiles p = MakePercentiles({8, 1, NAN, 4, 2});
  CHECK(p.min == 1);
  CHECK(p.max == 8);
  CHECK(p.p50 == Approx(3.0));
  const MeanAndError m = MeanWithError({1, 2, 4, 8});  // variance 115/12 over n - 1 = 3
  CHECK(m.mean == 3.75);
  CHECK(m.se == Approx(std::sqrt((7.5625 + 3.0625 + 0.0625 + 18.0625) / 3 / 4)));
}

TEST_CASE("Row scores are the formulas of the KL divergence in full") {
  const float p[] = {0, 1, 2, -20}, q[] = {0.5, 1, 1.5, -21};
  double zp = 0, zq = 0, kld = 0, clipped = 0;
  for (int v = 0; v < 4; ++v) {
    zp += std::exp(static_cast<double>(p[v]));
    zq += std::exp(static_cast<double>(q[v]));
  }
  for (int v = 0; v < 4; ++v) {
    const double lp = static_cast<double>(p[v]) - std::log(zp), lq = static_cast<double>(q[v]) - std::log(zq);
    kld += std::exp(lp) * (lp - lq);
    if (lp > -16) clipped += std::exp(lp) * (lp - lq);
  }
  const RowScore s = ScoreRow(p, q, 4, 1);
  CHECK(s.kld == Approx(kld).epsilon(1e-6));
  CHECK(s.kld_llamacpp == Approx(clipped).epsilon(1e-6));
  CHECK(s.nll == Approx(std::log(zq) - 1).epsilon(1e-6));
  CHECK(s.nll_reference == Approx(std::log(zp) - 1).epsilon(1e-6));
  CHECK(s.same_top);
  CHECK(ScoreRow(p, p, 4, 0).kld == 0);
  CHECK(ScoreRow(p, 4, 1).nll == Approx(s.nll_reference).epsilon(1e-12));
  const float tie[] = {2, 2, 0, 0}, other[] = {1, 2, 0, 0};
  CHECK_FALSE(ScoreRow(tie, other, 4, 0).same_top);  // the tie goes to the lower id
  const float broken[] = {0, NAN, 0, 0};
  CHECK_FALSE(ScoreRow(p, broken, 4, 0).finite);
}

TEST_CASE("Paired statistics use the differences, and one infinite row shows in every mean") {
  std::vector<WindowScores> windows(2);
  const double a[] = {1, 2, 3, 4}, d[] = {0.1, -0.1, 0.3, 0.1};
  for (int i = 0; i < 4; ++i) {
    windows[static_cast<size_t>(i / 2)].push_back(
        {.nll = a[i] + d[i], .nll_reference = a[i], .kld = 0.01 * (i + 1), .same_top = i != 2});
  }
  EvalResult r;
  Summarize(windows, r);
  CHECK(r.ln_ratio == Approx(0.1));
  const double sd2 = (0.0 + 0.04 + 0.04 + 0.0) / 3;
  CHECK(r.ln_ratio_se == Approx(std::sqrt(sd2 / 4)));
  CHECK(r.window_ln_ratio[0] == Approx(0.0).margin(1e-12));
  CHECK(r.window_ln_ratio[1] == Approx(0.2));
  CHECK(r.ln_ratio_se_window == Approx(std::sqrt(0.02 / 2)));
  CHECK(r.ppl_reference == Approx(std::exp(2.5)));
  CHECK(r.ppl_ratio == Approx(std::exp(0.1)));
  CHECK(r.same_top == 0.75);
  CHECK(r.kld_mean == Approx(0.025));
  windows[0][0] = ScoreRow(std::vector<float>{0, INFINITY}.data(), 2, 0);
  EvalResult broken;
  Summarize(windows, broken);
  CHECK(std::isinf(broken.ppl));
  CHECK(broken.nonfinite_share == 0.25);
  CHECK(broken.kld.max == Approx(0.04));
}

TEST_CASE("Perplexity of a tiny model is that of the plain float64 model") {
  const TinyModel tiny = MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64});
  ThreadPool pool(2);
  const auto model = LoadModel(*tiny.checkpoint, {.pool = &pool});
  REQUIRE(model.ok());
  const TokenStream text = RandomText(40, 64, 3);
  const auto r = Evaluate(**model, **model, WordTokenizer(64), text, {.context = 20});
  REQUIRE(r.ok());
  double nll = 0;
  for (int w = 0; w < 2; ++w) {
    const absl::Span<const int32_t> chunk = absl::MakeSpan(text.ids).subspan(static_cast<size_t>(w) * 20, 20);
    const testing::ReferenceRun run = testing::RunReference(*tiny.checkpoint, chunk);
    for (size_t i = 0; i < 19; ++i) {
      double z = 0;
      for (size_t v = 0; v < 64; ++v) z += std::exp(run.logits[i * 64 + v]);
      nll += std::log(z) - run.logits[i * 64 + static_cast<size_t>(chunk[i + 1])];
    }
  }
  CHECK(r->num_scored == 38);
  CHECK(r->ppl == Approx(std::exp(nll / 38)).epsilon(1e-5));
  CHECK(r->kld_mean == 0);
  CHECK(r->same_top == 1);
}

TEST_CASE(
    "Another model shows a divergence; behind a prefix both run the same input and the control does not") {
  ThreadPool pool(2);
  const testing::TinyModelOptions shape{.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64};
  const TinyModel tiny = MakeTinyModel(shape), same = MakeTinyModel(shape);
  Tensor& head = same.checkpoint->tensor("model.layers.1.mlp.down_proj.weight");
  head.as<float>()[5] += 4.0f;  // one weight: the canary
  const auto reference = LoadModel(*tiny.checkpoint, {.pool = &pool});
  const auto changed = LoadModel(*same.checkpoint, {.pool = &pool});
  REQUIRE((reference.ok() && changed.ok()));
  const TokenStream text = RandomText(120, 64, 5);
  const WordTokenizer tokenizer(64, 3);
  const auto plain = Evaluate(**changed, **reference, tokenizer, text, {.context = 20, .noise_floor = true});
  REQUIRE(plain.ok());
  CHECK(plain->kld_mean > 1e-6);
  int64_t bytes = 0;  // of all but each window's first word, blanks between words included
  for (size_t i = 0; i < text.ids.size(); ++i) {
    if (i % 20 != 0) bytes += static_cast<int64_t>(absl::StrCat(" t", text.ids[i]).size());
  }
  CHECK(plain->bits_per_byte ==
        Approx(std::log2(plain->ppl) * static_cast<double>(plain->num_scored) / static_cast<double>(bytes)));
  CHECK(plain->noise_floor_kld > 0);
  CHECK(plain->noise_floor_kld < 1e-3);
  CHECK(plain->prefix_ratio == 1);

  auto prefix = ComputePrefix(**changed, std::vector<int32_t>{9, 3});
  REQUIRE(prefix.ok());
  (*changed)->set_prefix(*prefix);
  const auto behind =
      Evaluate(**changed, **reference, tokenizer, text, {.bos = BosMode::kWindow, .context = 20});
  REQUIRE(behind.ok());
  CHECK(behind->num_scored == plain->num_scored);
  CHECK(behind->prefix_ratio != 1);
  // The reference behind the prefix equals the reference on the prefix's tokens and the chunk.
  double nll = 0;
  for (size_t w = 0; w < 6; ++w) {
    std::vector<int32_t> tokens = {9, 3};
    tokens.insert(tokens.end(), text.ids.begin() + static_cast<int64_t>(w) * 20,
                  text.ids.begin() + static_cast<int64_t>(w + 1) * 20);
    const testing::ReferenceRun run = testing::RunReference(*tiny.checkpoint, tokens);
    for (size_t i = 2; i < 21; ++i) {
      double z = 0;
      for (size_t v = 0; v < 64; ++v) z += std::exp(run.logits[i * 64 + v]);
      nll += std::log(z) - run.logits[i * 64 + static_cast<size_t>(tokens[i + 1])];
    }
  }
  CHECK(behind->ppl_reference == Approx(std::exp(nll / 114)).epsilon(1e-4));  // the prefix is kept in bf16
}

TEST_CASE("Logits that are not numbers show in the comparison of two backends") {
  ThreadPool pool(2);
  const testing::TinyModelOptions shape{.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64};
  const TinyModel tiny = MakeTinyModel(shape), broken = MakeTinyModel(shape);
  const auto norm = broken.checkpoint->tensor("model.layers.0.input_layernorm.weight").as<float>();
  std::fill(norm.begin(), norm.end(), 3e38f);  // infinite rows of both signs, so that sums are NaN
  const auto host = LoadModel(*tiny.checkpoint, {.pool = &pool});
  const auto device = LoadModel(*broken.checkpoint, {.pool = &pool});
  REQUIRE((host.ok() && device.ok()));
  const std::vector<EvalWindow> windows = {{.tokens = RandomText(20, 64, 5).ids}};
  const auto same = CompareBackends(**host, **host, windows, nullptr);
  const auto r = CompareBackends(**device, **host, windows, nullptr);
  REQUIRE((same.ok() && r.ok()));
  CHECK(same->logits_worst == 0);
  CHECK(std::isinf(r->logits_worst));
}

TEST_CASE("The beginning of a window is scored from its second token on, whatever the protocol scores") {
  const EvalWindow window = {.tokens = RandomText(20, 64, 5).ids, .score_from = 10, .leads_with_bos = true};
  for (const int64_t tokens : {1, 2, 7, 20, 64}) {
    const EvalWindow beginning = BeginningOf(window, tokens);
    const size_t count = static_cast<size_t>(std::clamp<int64_t>(tokens, 2, 20));
    CHECK(beginning.tokens == std::vector<int32_t>(window.tokens.begin(), window.tokens.begin() + count));
    CHECK(beginning.num_scored() == static_cast<int64_t>(count) - 1);
    CHECK(beginning.leads_with_bos);
  }
  EvalWindow behind_prefix = window;
  behind_prefix.score_from = 0;
  CHECK(BeginningOf(behind_prefix, 8).num_scored() == 8);
}

TEST_CASE("Different vocabularies, and contexts that the model cannot hold, are refused") {
  ThreadPool pool(1);
  const auto small = MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 1, .vocab = 32});
  const auto large =
      MakeTinyModel({.hidden = 64, .intermediate = 96, .num_layers = 1, .vocab = 64, .max_positions = 16});
  const auto a = LoadModel(*small.checkpoint, {.pool = &pool});
  const auto b = LoadModel(*large.checkpoint, {.pool = &pool});
  REQUIRE((a.ok() && b.ok()));
  const TokenStream text = RandomText(64, 32, 1);
  const auto vocab = Evaluate(**a, **b, WordTokenizer(32), text, {.context = 16});
  CHECK(vocab.status().code() == absl::StatusCode::kInvalidArgument);
  CHECK(vocab.status().message() ==
        "vocabulary: the quantized model has 32 tokens and the reference 64; both must come from the same "
        "model");
  const auto context = Evaluate(**b, **b, WordTokenizer(32), text, {.context = 17});
  CHECK(context.status().message() ==
        "context: 17 positions with prefix and BOS; the model allows 16; use a shorter context");
}

TEST_CASE("A remembered reference gives the same numbers and is not run again, prefix and control as well") {
  ThreadPool pool(2);
  const testing::TinyModelOptions shape{.hidden = 64, .intermediate = 96, .num_layers = 2, .vocab = 64};
  const TinyModel tiny = MakeTinyModel(shape), other = MakeTinyModel(shape);
  other.checkpoint->tensor("model.layers.1.mlp.down_proj.weight").as<float>()[5] += 4.0f;
  const auto reference = LoadModel(*tiny.checkpoint, {.pool = &pool});
  const auto changed = LoadModel(*other.checkpoint, {.pool = &pool});
  REQUIRE((reference.ok() && changed.ok()));
  const auto prefix = ComputePrefix(**changed, std::vector<int32_t>{9, 3});
  REQUIRE(prefix.ok());
  (*changed)->set_prefix(*prefix);
  const TokenStream text = RandomText(120, 64, 5);
  const WordTokenizer tokenizer(64, 3);
  const auto run = [&](const RuntimeModel& beside, HiddenMemory* memory) {
    const auto r = Evaluate(**changed, beside, tokenizer, text, {.context = 20, .reference_memory = memory});
    REQUIRE(r.ok());
    return *r;
  };
  HiddenMemory memory(100);
  const EvalResult without = run(**reference, nullptr), first = run(**reference, &memory);
  CHECK(memory.num_windows() == 12);  // 6 behind the prefix, 6 alone
  CHECK(memory.num_found() == 0);
  const EvalResult second = run(**reference, &memory);
  CHECK(memory.num_found() == 12);
  for (const EvalResult& r : {first, second}) {
    CHECK(r.kld_mean == without.kld_mean);
    CHECK(r.ppl_reference == without.ppl_reference);
    CHECK(r.ppl_reference_no_prefix == without.ppl_reference_no_prefix);
  }
  CHECK(run(**changed, &memory).kld_mean == 0);  // a model beside itself has no use for it
  // Another model with the same head in the reference's place: had it run, the numbers would be others.
  const auto stranger = LoadModel(*other.checkpoint, {.pool = &pool});
  REQUIRE(stranger.ok());
  CHECK(run(**stranger, nullptr).kld_mean < 0.1 * without.kld_mean);
  CHECK(run(**stranger, &memory).kld_mean == without.kld_mean);

  HiddenMemory logits(100, uint64_t{1} << 20), full(100, 64 * 64 * sizeof(float));
  const EvalResult filling = run(**reference, &logits);
  CHECK(filling.kld_mean == without.kld_mean);
  CHECK(filling.seconds_reference > 0);
  CHECK(logits.num_logits_found() == 0);
  CHECK(run(**stranger, &logits).kld_mean == without.kld_mean);
  CHECK(logits.num_logits_found() == 6);        // a block a window
  const TinyModel tail = MakeTinyModel(shape);  // even its head is another
  for (float& v : tail.checkpoint->tensor("model.embed_tokens.weight").as<float>()) v *= 2;
  const auto loud = LoadModel(*tail.checkpoint, {.pool = &pool});
  REQUIRE(loud.ok());
  CHECK(run(**loud, nullptr).ppl_reference != without.ppl_reference);
  const EvalResult remembered = run(**loud, &logits);
  CHECK(remembered.ppl_reference == without.ppl_reference);
  CHECK(remembered.seconds_reference == 0);  // copying rows is no speed of the model
  CHECK(run(**loud, &logits).ppl_reference_no_prefix == without.ppl_reference_no_prefix);
  for (int i = 0; i < 2; ++i) CHECK(run(**reference, &full).kld_mean == without.kld_mean);
  CHECK(full.num_logits_found() < 6);

  HiddenMemory small(5);
  CHECK(run(**reference, &small).kld_mean == without.kld_mean);
  CHECK(small.num_windows() == 5);
  CHECK(run(**reference, &small).ppl_reference_no_prefix == without.ppl_reference_no_prefix);
}

}  // namespace spikefold
