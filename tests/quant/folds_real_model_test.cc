// Folds on real models. Needs `make models`.
#include <cmath>

#include "formats/base/dtype.h"
#include "formats/safetensors.h"
#include "quant/folds/smooth.h"
#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

constexpr double kTolerance = 1e-5;  // of a logit, over the largest

struct Real {
  std::unique_ptr<CheckpointReader> reader;
  std::vector<int32_t> tokens;
};

Real OpenReal(const std::string& gguf, const std::string& logits) {
  auto reader = CheckpointReader::Open(std::string(SPIKEFOLD_MODELS) + "/" + gguf);
  INFO(reader.status() << " (make models fetches it)");
  REQUIRE(reader.ok());
  const auto file = *SafetensorsFile::Open(std::string(SPIKEFOLD_TEST_DATA) + "/logits/" + logits);
  const Tensor ids = *file->Read(*file->Find("ids_a"));
  return {*std::move(reader), {ids.as<int32_t>().begin(), ids.as<int32_t>().end()}};
}

std::unique_ptr<FoldedCheckpoint> Fold(const CheckpointReader& base, const FoldOptions& options) {
  auto folded = FoldCheckpoint(base, options, &Pool());
  INFO(folded.status());
  REQUIRE(folded.ok());
  return *std::move(folded);
}

// Ranges of every site's input.
class Ranges : public Taps {
 public:
  explicit Ranges(const ModelGraph& graph) {
    for (const Site& site : graph.sites) {
      const size_t k = static_cast<size_t>(site.k);
      arm.sites.push_back({.site = site.id,
                           .k = site.k,
                           .rows = 0,
                           .min = std::vector<float>(k),
                           .max = std::vector<float>(k)});
      values.push_back({site.layer, site.value});
    }
  }
  bool Wants(int layer, ValueKind v) const override {
    return std::find(values.begin(), values.end(), std::make_pair(layer, v)) != values.end();
  }
  void OnRows(const TapRows& r) override {
    const auto at = std::find(values.begin(), values.end(), std::make_pair(r.layer, r.value));
    SiteStats& s = arm.sites[static_cast<size_t>(at - values.begin())];
    for (int64_t i = 0; i < r.num_rows * r.width; ++i) {
      const size_t c = static_cast<size_t>(i % r.width);
      s.min[c] = std::min(s.min[c], r.data[i]);
      s.max[c] = std::max(s.max[c], r.data[i]);
    }
  }
  StatsArm arm;

 private:
  std::vector<std::pair<int, ValueKind>> values;
};

// The residual stream as an engine with float16 activations holds it.
class Float16Residual : public Interventions {
 public:
  bool Wants(int, ValueKind v) const override { return v == ValueKind::kResidual; }
  void Edit(int, ValueKind, float* data, int64_t rows, int64_t width, int64_t) override {
    for (int64_t i = 0; i < rows * width; ++i) {
      data[i] = F16ToFloat(FloatToF16(data[i]));
      peak = std::max(peak, std::fabs(data[i]));
    }
  }
  float peak = 0;
};

double WorstKld(const std::vector<float>& p, const std::vector<float>& q, size_t vocab) {
  double worst = 0;
  for (size_t row = 0; row < p.size(); row += vocab) {
    double zp = 0, zq = 0, kld = 0;
    for (size_t v = row; v < row + vocab; ++v) {
      zp += std::exp(static_cast<double>(p[v]));
      zq += std::exp(static_cast<double>(q[v]));
    }
    for (size_t v = row; v < row + vocab; ++v) {
      const double ln_p = p[v] - std::log(zp);
      kld += std::exp(ln_p) * (ln_p - q[v] + std::log(zq));
    }
    worst = std::max(worst, std::fabs(kld));
  }
  return worst;
}

}  // namespace

TEST_CASE("All folds together change no logit of SmolLM2, and scales from its own ranges fit") {
  const Real real = OpenReal("smollm2-135m-instruct-q4_1.gguf", "smollm2-135m.safetensors");
  const std::vector<float> want = RunLogits(*Load(*real.reader), real.tokens);
  FoldOptions options = {.rotate_residual = true, .rotate_values = true};
  {
    const auto offline = Fold(*real.reader, options);
    Ranges ranges(offline->graph());
    const std::vector<float> logits = RunLogits(*Load(*offline), real.tokens, 0, {.taps = &ranges});
    CHECK(RelativeError(logits, want) < kTolerance);
    auto scales = SmoothScales(*offline, ranges.arm, 0.85);
    REQUIRE(scales.ok());
    CHECK(scales->size() == 120);
    options.smooth = *std::move(scales);
  }
  options.rotate_down = options.rotate_qk = true;
  const auto folded = Fold(*real.reader, options);
  CHECK(folded->refused().empty());
  CHECK(folded->graph().rotations.size() == 4);
  CHECK(folded->graph().rotations[0].factors == std::vector<int64_t>{12, 12, 4});
  const std::vector<float> logits = RunLogits(*Load(*folded), real.tokens);
  CHECK(RelativeError(logits, want) < kTolerance);
  CHECK(WorstKld(want, logits, static_cast<size_t>(folded->graph().config.vocab)) < 1e-6);
}

TEST_CASE("What is legal on Gemma 3 changes none of its logits, and R1 is refused") {
  const Real real = OpenReal("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m.safetensors");
  const std::vector<float> want = RunLogits(*Load(*real.reader), real.tokens);
  Ranges ranges(real.reader->graph());
  (void)RunLogits(*Load(*real.reader), real.tokens, 0, {.taps = &ranges});
  FoldOptions options = {.norm_gain = true, .rotate_residual = true, .rotate_down = true, .rotate_qk = true};
  options.smooth = *SmoothScales(*real.reader, ranges.arm, 0.85);
  const auto folded = Fold(*real.reader, options);
  REQUIRE(folded->refused().size() == 2);
  CHECK(folded->refused()[0].reason == "model.norm: the head shares the embedding's weight");
  CHECK(folded->refused()[1].fold == "R1");
  CHECK(folded->graph().config.tied_embeddings);
  CHECK(RelativeError(RunLogits(*Load(*folded), real.tokens), want) < kTolerance);
}

TEST_CASE("A float16 residual of Gemma 3 overflows, and does not once it is rescaled") {
  const Real real = OpenReal("gemma-3-270m-q4_k_m.gguf", "gemma-3-270m.safetensors");
  const std::vector<float> want = RunLogits(*Load(*real.reader), real.tokens);
  Float16Residual wide, narrow;
  const auto finite = [](const std::vector<float>& x) {
    return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
  };
  CHECK_FALSE(finite(RunLogits(*Load(*real.reader), real.tokens, 0, {.interventions = &wide})));
  const auto folded = Fold(*real.reader, {.rescale = 16});
  CHECK(folded->refused().empty());
  CHECK(RelativeError(RunLogits(*Load(*folded), real.tokens), want) < kTolerance);
  const std::vector<float> rounded = RunLogits(*Load(*folded), real.tokens, 0, {.interventions = &narrow});
  REQUIRE(finite(rounded));
  CHECK(narrow.peak > 2000);
  CHECK(narrow.peak < kRescaledPeak);
  CHECK(WorstKld(want, rounded, static_cast<size_t>(folded->graph().config.vocab)) < 1e-3);
}

TEST_CASE("SmolLM2 with a rescaled residual computes the same logits to the bit") {
  const Real real = OpenReal("smollm2-135m-instruct-q4_1.gguf", "smollm2-135m.safetensors");
  const auto folded = Fold(*real.reader, {.rescale = 4});
  CHECK(RunLogits(*Load(*folded), real.tokens) == RunLogits(*Load(*real.reader), real.tokens));
}

}  // namespace spikefold::testing
