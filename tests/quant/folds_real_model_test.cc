// Folds on real models. Needs `make models`.
#include <cmath>

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

}  // namespace spikefold::testing
