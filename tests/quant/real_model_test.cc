// What the schemes and treatments are worth on SmolLM2-135M, through the integer kernels. Needs `make
// models`.
#include <catch2/catch.hpp>
#include <cmath>

#include "calib/census.h"
#include "calib/dataset.h"
#include "calib/evaluate.h"
#include "formats/base/file.h"
#include "quant/apply.h"
#include "quant/kv_choice.h"
#include "quant/planner.h"
#include "tests/testing/temp_directory.h"

namespace spikefold {
namespace {

using testing::TempDirectory;

class Measured {
 public:
  Measured() : pool_(DefaultNumThreads()) {
    auto reader = CheckpointReader::Open(JoinPath(SPIKEFOLD_MODELS, "smollm2-135m-instruct-q4_1.gguf"));
    REQUIRE(reader.ok());
    reader_ = *std::move(reader);
    model_ = *LoadModel(*reader_, {.pool = &pool_});
    tokenizer_ = *reader_->LoadTokenizer();
    auto scan = Scan(*model_, *reader_, *tokenizer_, {.num_windows = 32, .window_length = 128, .texts = {}});
    REQUIRE(scan.ok());
    scan_ = *std::move(scan);
    text_ = *TokenizeFiles(*tokenizer_, {SPIKEFOLD_TEST_DATA "/wiki.test.raw"});
    fingerprint_ = *reader_->Fingerprint();
  }
  const OutlierMap& map() const { return scan_.map; }

  EvalResult Run(const Recipe& recipe, bool simulate = false) {
    const auto plan = MakePlan(recipe, {.graph = &reader_->graph(),
                                        .map = &scan_.map,
                                        .stats = &scan_.stats,
                                        .model_fingerprint = fingerprint_,
                                        .scan_sha256 = ""});
    REQUIRE(plan.ok());
    const TempDirectory directory;
    REQUIRE(
        ApplyPlan(*plan, *reader_, {.pool = &pool_, .stats = &scan_.stats, .output = directory / "q"}).ok());
    const auto quantized = CheckpointReader::Open(directory / "q");
    REQUIRE(quantized.ok());
    const auto model = LoadModel(**quantized, {.pool = &pool_, .simulate = simulate});
    REQUIRE(model.ok());
    const auto r = Evaluate(**model, *model_, *tokenizer_, text_,
                            {.context = 512, .max_windows = 4, .prefix_control = false});
    REQUIRE(r.ok());
    return *r;
  }

 private:
  ThreadPool pool_;
  std::unique_ptr<CheckpointReader> reader_;
  std::unique_ptr<RuntimeModel> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ScanResult scan_;
  TokenStream text_;
  std::string fingerprint_;
};

}  // namespace

TEST_CASE("SmolLM2: static INT8 collapses untreated and holds when spikes are folded and wide columns kept") {
  Measured m;
  REQUIRE_FALSE(m.map().prefix.empty());
  const double none = m.Run({.scheme = "w8a8-static", .outliers = OutlierMode::kNone}).ppl_ratio;
  const EvalResult fold = m.Run({.scheme = "w8a8-static", .outliers = OutlierMode::kFold});
  const EvalResult both = m.Run({.scheme = "w8a8-static", .outliers = OutlierMode::kFoldKeep});
  // What is left of the logarithm: a fifth behind the prefix, a third of that with the widest columns kept.
  // (4,096 tokens of self-written text, the default, are few; docs/results.md has the figures of a full
  // calibration.)
  CHECK(none > 2);
  CHECK(std::log(fold.ppl_ratio) < 0.2 * std::log(none));
  CHECK(std::log(both.ppl_ratio) < 0.35 * std::log(fold.ppl_ratio));
  const double random =
      m.Run({.scheme = "w8a8-static", .outliers = OutlierMode::kFoldKeep, .random_columns = true}).ppl_ratio;
  CHECK(std::log(random) > 0.8 * std::log(fold.ppl_ratio));

  const Recipe recipe{.scheme = "w8a8", .rounding = Rounding::kNearest};
  const EvalResult w8a8 = m.Run(recipe), simulated = m.Run(recipe, true);
  CHECK(w8a8.ppl_ratio < 1.04);
  CHECK(std::fabs(simulated.kld_mean - w8a8.kld_mean) < 1e-4 + 2 * w8a8.kld_se);
  CHECK(m.Run({.scheme = "w4a16", .group_size = 64}).ppl_ratio < 1.45);
}

TEST_CASE("SmolLM2: keys and values of 4 bits, the first row and the latest in 16") {
  ThreadPool pool(DefaultNumThreads());
  const auto reader = CheckpointReader::Open(JoinPath(SPIKEFOLD_MODELS, "smollm2-135m-instruct-q4_1.gguf"));
  REQUIRE(reader.ok());
  const auto model = *LoadModel(**reader, {.pool = &pool});
  const auto tokenizer = *(*reader)->LoadTokenizer();
  const TokenStream text = *TokenizeFiles(*tokenizer, {SPIKEFOLD_TEST_DATA "/wiki.test.raw"});
  const auto kld = [&](const char* word, int64_t sinks) {
    KvChoice choice{.sinks = sinks};
    REQUIRE(ParseKvWord(word, choice).ok());
    REQUIRE(model->set_kv(*ChooseKv(choice, model->graph(), {}, false)).ok());
    const auto r = Evaluate(*model, *model, *tokenizer, text, {.context = 512, .max_windows = 2});
    REQUIRE(r.ok());
    return r->kld_mean;
  };
  const double four = kld("4", 1);
  CHECK(four < 0.01);
  CHECK(kld("8", 1) < 0.0005);
  CHECK(kld("k4rv4", 1) > 2 * four);  // scales by row instead of by channel
  CHECK(kld("4", 0) > 1.5 * four);    // the sink's keys share a page's scale
}

}  // namespace spikefold
