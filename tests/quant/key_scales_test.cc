// Static key scales against the best grid that a search finds on fresh data of the same distribution.
#include "quant/rounding/key_scales.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "tests/testing/status_matchers.h"

namespace spikefold {
namespace {

using testing::Fails;

ModelConfig OneLayer(int64_t width) {
  ModelConfig c;
  c.num_layers = 1;
  c.num_kv_heads = 1;
  c.head_dim = width;
  return c;
}

// Channel 0: Gaussian; 1: Laplace; 2: Gaussian far from zero; 3: constant.
std::vector<std::vector<double>> Draw(size_t count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<double> normal;
  std::exponential_distribution<double> exponential(1.0);
  std::vector<std::vector<double>> channels(4);
  for (size_t i = 0; i < count; ++i) {
    channels[0].push_back(normal(rng));
    channels[1].push_back(exponential(rng) * (rng() & 1 ? 1 : -1));
    channels[2].push_back(100 + 2 * normal(rng));
    channels[3].push_back(0.25);
  }
  return channels;
}

KeyStats Quantiles(std::vector<std::vector<double>> channels) {
  KeyStats stats{.layer = 0, .rows = static_cast<int64_t>(channels[0].size())};
  stats.quantiles.resize(kKeyQuantiles * channels.size());
  for (size_t c = 0; c < channels.size(); ++c) {
    std::sort(channels[c].begin(), channels[c].end());
    for (int i = 0; i < kKeyQuantiles; ++i) {
      const double at = KeyQuantileShare(i) * static_cast<double>(channels[c].size() - 1);
      stats.quantiles[static_cast<size_t>(i) * channels.size() + c] =
          static_cast<float>(channels[c][static_cast<size_t>(std::llround(at))]);
    }
  }
  return stats;
}

double FourthPower(const std::vector<double>& x, double min, double scale, double top) {
  double sum = 0;
  for (const double v : x) {
    sum += std::pow(min + scale * std::clamp(std::nearbyint((v - min) / scale), 0.0, top) - v, 4);
  }
  return sum / static_cast<double>(x.size());
}

}  // namespace

TEST_CASE("Key scales of few bits come near the least fourth-power error, on other data of the same kind") {
  const std::vector<KeyStats> keys = {Quantiles(Draw(20000, 1))};
  const std::vector<std::vector<double>> fresh = Draw(20000, 2);
  for (const int bits : {4, 3, 2}) {
    const auto chosen = ChooseKeyScales(keys, OneLayer(4), bits);
    REQUIRE(chosen.ok());
    const double top = (1 << bits) - 1;
    for (size_t c = 0; c < 3; ++c) {
      INFO(bits << " bits, channel " << c);
      if (bits == 4 && c == 1) continue;  // decided by the few largest values, which differ from draw to draw
      const double error =
          FourthPower(fresh[c], double{(*chosen)->min[0][c]}, double{(*chosen)->scale[0][c]}, top);
      const auto [low, high] = std::minmax_element(fresh[c].begin(), fresh[c].end());
      double best = 1e300;
      for (int a = 0; a < 30; ++a) {
        for (int b = 0; b < 30; ++b) {
          const double from = *low + (*high - *low) * a / 64, to = *high - (*high - *low) * b / 64;
          best = std::min(best, FourthPower(fresh[c], from, (to - from) / top, top));
        }
      }
      CHECK(error < 1.35 * best);
      CHECK(error < 0.9 * FourthPower(fresh[c], *low, (*high - *low) / top, top));
    }
    CHECK((*chosen)->scale[0][3] > 0);
    CHECK((*chosen)->min[0][3] == 0.25f);
  }
}

TEST_CASE("Key scales of 8 bits cover every key that was seen") {
  const std::vector<KeyStats> keys = {Quantiles(Draw(1000, 3))};
  const auto chosen = ChooseKeyScales(keys, OneLayer(4), 8);
  REQUIRE(chosen.ok());
  for (size_t c = 0; c < 3; ++c) {
    CHECK((*chosen)->min[0][c] == keys[0].quantiles[c]);
    const float high = keys[0].quantiles[(kKeyQuantiles - 1) * 4 + c];
    CHECK((*chosen)->min[0][c] + 255 * (*chosen)->scale[0][c] == Approx(high).epsilon(1e-5));
  }
}

TEST_CASE("Key scales are refused for other bits, another model's keys and a layer without any") {
  const std::vector<KeyStats> keys = {Quantiles(Draw(100, 4))};
  using absl::StatusCode;
  CHECK_THAT(ChooseKeyScales(keys, OneLayer(4), 5).status(),
             Fails(StatusCode::kInvalidArgument, "key scales for 5 bits; use 8, 4, 3 or 2"));
  CHECK_THAT(ChooseKeyScales(keys, OneLayer(8), 4).status(),
             Fails(StatusCode::kInvalidArgument, "keys of layer 0 are another model's"));
  ModelConfig two = OneLayer(4);
  two.num_layers = 2;
  CHECK_THAT(ChooseKeyScales(keys, two, 4).status(),
             Fails(StatusCode::kInvalidArgument, "no keys of layer 1; scan again with this version"));
}

}  // namespace spikefold
