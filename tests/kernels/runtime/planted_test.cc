// The planted life cycle, seen through taps: the numbers that a census must find.
#include <cmath>

#include "tests/kernels/runtime/runtime_kit.h"

namespace spikefold::testing {
namespace {

constexpr int32_t kSink = 7;

std::vector<int32_t> TextWithSinks() {
  std::vector<int32_t> tokens = SomeTokens(64, 256);
  for (int32_t& t : tokens) t = t == kSink ? 8 : t;
  tokens[0] = tokens[40] = kSink;
  return tokens;
}

class Residuals : public Taps {
 public:
  bool Wants(int, ValueKind v) const override { return v == ValueKind::kResidual; }
  void OnRows(const TapRows& r) override { layers.emplace_back(r.data, r.data + r.num_rows * r.width); }
  bool WantsAttention(int) const override { return true; }
  void OnAttention(const TapAttention& a) override {
    mass.push_back(a.column_mass[0] / static_cast<double>(a.num_rows));  // head 0, position 0
  }
  float At(int layer, int64_t position, int64_t channel) const {
    return layers[static_cast<size_t>(int64_t{layer} + 1)][static_cast<size_t>(position * 512 + channel)];
  }
  std::vector<std::vector<float>> layers;
  std::vector<double> mass;
};

// Sets the spike's channels to zero after the layer that writes it.
class ZeroSpike : public Interventions {
 public:
  bool Wants(int layer, ValueKind v) const override { return layer == 1 && v == ValueKind::kResidual; }
  void Edit(int, ValueKind, float* data, int64_t rows, int64_t width, int64_t) override {
    for (int64_t i = 0; i < rows; ++i) data[i * width + 70] = data[i * width + 301] = 0;
  }
};

class Views : public Interventions {
 public:
  explicit Views(const AttentionView& view) : view_(view) {}
  AttentionView View(int) const override { return view_; }
  bool Wants(int, ValueKind) const override { return false; }
  void Edit(int, ValueKind, float*, int64_t, int64_t, int64_t) override {}

 private:
  AttentionView view_;
};

}  // namespace

TEST_CASE("A planted spike rises to beta d cos^2, stays, and is removed; its sink head looks at it") {
  const TinyModel tiny = MakeTinyModel({.spike_channels = {70, 301}, .step_up = 1, .step_down = 3});
  CHECK(tiny.planted.heights[0] == Approx(2023).margin(8));  // 4 * 512 * cos^2, cos^2 about 0.988
  CHECK(tiny.planted.heights[1] == Approx(1011).margin(4));
  const auto model = Load(*tiny.checkpoint);
  Residuals taps;
  RunLogits(*model, TextWithSinks(), 0, {.taps = &taps});
  REQUIRE(taps.layers.size() == 6);
  for (const int64_t position : {0, 40}) {
    for (const int layer : {-1, 0}) CHECK(taps.At(layer, position, 70) == 0);
    for (const int layer : {1, 2}) {
      CHECK(taps.At(layer, position, 70) == Approx(tiny.planted.heights[0]).epsilon(1e-3));
      CHECK(taps.At(layer, position, 301) == Approx(tiny.planted.heights[1]).epsilon(1e-3));
    }
    for (const int layer : {3, 4}) {
      CHECK(std::abs(taps.At(layer, position, 70)) < 0.2f);
      CHECK(std::abs(taps.At(layer, position, 301)) < 0.2f);
    }
  }
  // 5300 times the median, the only entries above 100.
  const auto& plateau = taps.layers[2];
  std::vector<float> magnitude;
  for (const float h : plateau) magnitude.push_back(std::abs(h));
  std::nth_element(magnitude.begin(), magnitude.begin() + 64 * 256, magnitude.end());
  CHECK(taps.At(1, 0, 70) / magnitude[64 * 256] > 4000);
  CHECK(std::count_if(plateau.begin(), plateau.end(), [](float h) { return std::abs(h) > 100; }) == 4);
  for (const int layer : {0, 1, 4}) CHECK(taps.mass[static_cast<size_t>(layer)] < 0.3);
  for (const int layer : {2, 3}) CHECK(taps.mass[static_cast<size_t>(layer)] > 0.6);
}

TEST_CASE("An intervention that zeroes the spike takes its sink away") {
  const TinyModel tiny = MakeTinyModel({.spike_channels = {70, 301}});
  const auto model = Load(*tiny.checkpoint);
  Residuals taps;
  ZeroSpike zero;
  const std::vector<int32_t> tokens = TextWithSinks();
  const std::vector<float> edited = RunLogits(*model, tokens, 0, {.taps = &taps, .interventions = &zero});
  CHECK(taps.At(1, 0, 70) == 0);
  for (const double mass : taps.mass) CHECK(mass < 0.3);
  CHECK(edited != RunLogits(*model, tokens));
}

TEST_CASE("A hidden first position leaves the later rows as if the text began behind it") {
  // Rotary embedding knows distances only, and so does a sliding window.
  const TinyModel tiny =
      MakeTinyModel({.hidden = 64, .sliding_window = 8, .sliding_layers = {true, false, true, false, true}});
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(40, 256);
  const auto without_first = [](std::vector<float> logits) {
    return std::vector<float>(logits.begin() + 256, logits.end());
  };
  Views hide({.hidden_position = 0});
  const std::vector<float> rest = RunLogits(*model, absl::MakeSpan(tokens).subspan(1));
  const std::vector<float> hidden = RunLogits(*model, tokens, 0, {.interventions = &hide});
  CHECK(RelativeError(without_first(hidden), rest) < 1e-4);
  CHECK(RelativeError(without_first(RunLogits(*model, tokens)), rest) > 1e-3);  // a canary
  // In the middle and in calls of any length the same; rows up to it see it.
  Views middle({.hidden_position = 5});
  const std::vector<float> at_once = RunLogits(*model, tokens, 0, {.interventions = &middle});
  CHECK(RelativeError(RunLogits(*model, tokens, 3, {.interventions = &middle}), at_once) < 1e-5);
  const std::vector<float> plain = RunLogits(*model, tokens);
  CHECK(std::equal(plain.begin(), plain.begin() + 6 * 256, at_once.begin()));
  CHECK_FALSE(std::equal(plain.begin() + 6 * 256, plain.begin() + 7 * 256, at_once.begin() + 6 * 256));
}

TEST_CASE("A row that sees only itself is a sequence of one token") {
  const TinyModel tiny = MakeTinyModel({.hidden = 64});
  const auto model = Load(*tiny.checkpoint);
  const std::vector<int32_t> tokens = SomeTokens(6, 256);
  Views alone({.only_itself = true});
  const std::vector<float> together = RunLogits(*model, tokens, 0, {.interventions = &alone});
  for (size_t t = 0; t < tokens.size(); ++t) {
    const std::vector<float> one = RunLogits(*model, absl::MakeSpan(tokens).subspan(t, 1));
    const auto at = together.begin() + static_cast<int64_t>(t * 256);
    CHECK(RelativeError(std::vector<float>(at, at + 256), one) < 1e-5);
  }
}

}  // namespace spikefold::testing
