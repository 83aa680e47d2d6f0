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
    return layers[static_cast<size_t>(layer + 1)][static_cast<size_t>(position * 512 + channel)];
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

}  // namespace spikefold::testing
