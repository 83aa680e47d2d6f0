// Rounding against known optima: signal to noise ratios of Gaussian and Laplace data at the best clip, by
// numerical integration of the quantization error (2^b - 1 levels; the 4-bit grid here has one level more).
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "formats/base/dtype.h"
#include "quant/keep/columns.h"
#include "quant/rounding/activation_scale.h"
#include "quant/rounding/round_weights.h"

namespace spikefold {
namespace {

std::vector<float> Gaussian(size_t count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<double> normal;
  std::vector<float> out(count);
  for (float& v : out) v = static_cast<float>(normal(rng));
  return out;
}
std::vector<float> Laplace(size_t count, uint64_t seed) {  // of unit variance
  std::mt19937_64 rng(seed);
  std::exponential_distribution<double> exponential(std::sqrt(2.0));
  std::vector<float> out(count);
  for (float& v : out) v = static_cast<float>(exponential(rng) * (rng() & 1 ? 1 : -1));
  return out;
}
double Decibel(double relative_error) { return -10 * std::log10(relative_error); }

TensorDecision Decision(int64_t n, int64_t k, int bits, ScaleMethod method) {
  TensorDecision d;
  d.n = n;
  d.k = k;
  d.weight_bits = bits;
  d.group_size = bits == 8 ? 0 : 64;
  d.weight_scales = method;
  return d;
}

SiteStats StatsOf(const std::vector<float>& x, int64_t k) {
  SiteStats s{.site = 0, .k = k, .rows = static_cast<int64_t>(x.size()) / k};
  s.min.assign(static_cast<size_t>(k), 1e30f);
  s.max.assign(static_cast<size_t>(k), -1e30f);
  s.histogram.assign(static_cast<size_t>(k * kMagnitudeBins), 0);
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i % static_cast<size_t>(k);
    s.min[c] = std::min(s.min[c], x[i]);
    s.max[c] = std::max(s.max[c], x[i]);
    ++s.histogram[c * kMagnitudeBins + static_cast<size_t>(MagnitudeBin(x[i]))];
  }
  return s;
}

ThreadPool& Pool() {
  static ThreadPool pool(2);
  return pool;
}

}  // namespace

TEST_CASE("The clip search reaches the best signal to noise ratio of 4 bits") {
  const std::vector<float> gauss = Gaussian(1 << 19, 1), laplace = Laplace(1 << 19, 2);
  TensorDecision d = Decision(64, 8192, 4, ScaleMethod::kMse);
  d.group_size = 8192;  // large enough for the distribution's own optimum
  // The grid of factors is 0.03 of the largest value apart: within 0.3 dB of the optimum, plus one level
  // more.
  CHECK(Decibel(RoundWeights(gauss, d, {}, Pool()).relative_error) == Approx(18.9 + 0.3).margin(0.35));
  CHECK(Decibel(RoundWeights(laplace, d, {}, Pool()).relative_error) > 14.5);
  d.weight_scales = ScaleMethod::kAbsMax;
  CHECK(Decibel(RoundWeights(gauss, d, {}, Pool()).relative_error) < 17);
  CHECK(Decibel(RoundWeights(laplace, d, {}, Pool()).relative_error) < 13);
}

TEST_CASE("Codes are the nearest to the weight at the scale that is stored") {
  for (const int bits : {4, 8}) {
    const std::vector<float> w = Gaussian(24 * 192, 3);
    const TensorDecision d = Decision(24, 192, bits, ScaleMethod::kMse);
    const RoundedWeights r = RoundWeights(w, d, {}, Pool());
    const int64_t group = bits == 8 ? 192 : 64;
    const float lo = bits == 8 ? -127 : -8, hi = bits == 8 ? 127 : 7;
    double error = 0, power = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      const float scale = r.scales[i / static_cast<size_t>(group)];
      if (bits == 4) CHECK(Bf16ToFloat(FloatToBf16(scale)) == scale);
      CHECK(r.codes[i] == std::clamp(std::nearbyint(w[i] / scale), lo, hi));
      const double e = static_cast<double>(w[i]) - static_cast<double>(scale) * r.codes[i];
      error += e * e;
      power += static_cast<double>(w[i]) * static_cast<double>(w[i]);
    }
    CHECK(r.relative_error == Approx(error / power).epsilon(1e-4));
  }
}

TEST_CASE("Important columns lose less") {
  const std::vector<float> w = Gaussian(32 * 64, 4);
  std::vector<float> importance(64, 1.0f);
  for (size_t c = 0; c < 8; ++c) importance[c] = 1000.0f;
  const TensorDecision d = Decision(32, 64, 4, ScaleMethod::kMse);
  const RoundedWeights plain = RoundWeights(w, d, {}, Pool()), aware = RoundWeights(w, d, importance, Pool());
  const auto loss = [&](const RoundedWeights& r) {
    double sum = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      const float e = w[i] - r.scales[i / 64] * static_cast<float>(r.codes[i]);
      sum += static_cast<double>(importance[i % 64] * e * e);
    }
    return sum;
  };
  CHECK(loss(aware) < 0.8 * loss(plain));
}

TEST_CASE("Kept columns and super weights leave no trace in codes and scales") {
  std::vector<float> w = Gaussian(8 * 128, 5);
  TensorDecision d = Decision(8, 128, 4, ScaleMethod::kAbsMax);
  d.kept = {3, 70};
  d.supers = {{2, 100}};
  const RoundedWeights before = RoundWeights(w, d, {}, Pool());
  for (size_t row = 0; row < 8; ++row) w[row * 128 + 3] = w[row * 128 + 70] = 1e6f;
  w[2 * 128 + 100] = -1e6f;
  const RoundedWeights after = RoundWeights(w, d, {}, Pool());
  CHECK(after.codes == before.codes);
  CHECK(after.scales == before.scales);
  for (size_t row = 0; row < 8; ++row) CHECK(int{after.codes[row * 128 + 70]} == 0);
  CHECK(int{after.codes[2 * 128 + 100]} == 0);
  d.supers.clear();  // the canary: without its exemption the large weight rules its group
  CHECK(RoundWeights(w, d, {}, Pool()).scales != before.scales);
}

TEST_CASE("A row of zeros has scale 1; results do not depend on the threads") {
  std::vector<float> w = Gaussian(64 * 64, 6);
  std::fill_n(w.begin() + 64, 64, 0.0f);
  const TensorDecision d = Decision(64, 64, 8, ScaleMethod::kMse);
  ThreadPool one(1);
  const RoundedWeights a = RoundWeights(w, d, {}, one), b = RoundWeights(w, d, {}, Pool());
  CHECK(a.scales[1] == 1.0f);
  CHECK(a.codes == b.codes);
  CHECK(a.scales == b.scales);
  CHECK(a.relative_error == b.relative_error);
}

TEST_CASE("Static scales by least squares sit at the best clip of the distribution") {
  const SiteStats gauss = StatsOf(Gaussian(1 << 20, 7), 16), laplace = StatsOf(Laplace(1 << 20, 8), 16);
  // Best clips of 8 bits: 3.92 and 6.98 standard deviations; the optimum is flat.
  CHECK(ChooseActivationScale(gauss, {}, ScaleMethod::kMse).scale * 127 == Approx(3.92).epsilon(0.06));
  CHECK(ChooseActivationScale(laplace, {}, ScaleMethod::kMse).scale * 127 == Approx(6.98).epsilon(0.1));
  const ActivationScale absmax = ChooseActivationScale(gauss, {}, ScaleMethod::kAbsMax);
  CHECK(absmax.clipped_share == 0);
  CHECK(ChooseActivationScale(gauss, {}, ScaleMethod::kPercentile).scale * 127 == Approx(3.89).epsilon(0.06));
}

TEST_CASE("The widest channels are kept, and values beyond the ceiling do not count") {
  std::vector<float> x = Gaussian(16 * 4096, 9);
  for (size_t i = 0; i < x.size(); ++i) {
    if (i % 16 == 5 || i % 16 == 11) x[i] *= 40;
  }
  const SiteStats wide = StatsOf(x, 16);
  for (const bool is_static : {true, false}) {
    CHECK(ChooseKeptColumns(wide, 2, is_static, ScaleMethod::kMse) == std::vector<int32_t>{5, 11});
  }
  // A row beyond the ceiling, which is computed in float, keeps no column.
  std::vector<float> spike = x;
  spike[7 * 16 + 2] = 1e5f;
  const SiteStats once = StatsOf(spike, 16);
  CHECK(ChooseKeptColumns(once, 1, true, ScaleMethod::kAbsMax) == std::vector<int32_t>{2});
  for (const ScaleMethod method : {ScaleMethod::kAbsMax, ScaleMethod::kMse}) {
    CHECK(ChooseKeptColumns(once, 2, true, method, 1000) == std::vector<int32_t>{5, 11});
  }
  const std::vector<int32_t> kept = {5, 11};
  const float with = ChooseActivationScale(wide, kept, ScaleMethod::kMse).scale;
  CHECK(with < 0.1f * ChooseActivationScale(wide, {}, ScaleMethod::kMse).scale);
  CHECK(RandomColumns(wide, 2, 1) == RandomColumns(wide, 2, 1));

  x = Gaussian(16 * 4096, 10);
  const float ordinary = ChooseActivationScale(StatsOf(x, 16), {}, ScaleMethod::kMse).scale;
  x[77] = 5000;  // one spike row
  const SiteStats spiked = StatsOf(x, 16);
  CHECK(ChooseActivationScale(spiked, {}, ScaleMethod::kAbsMax, 100.0f).scale * 127 <= 100);
  CHECK(ChooseActivationScale(spiked, {}, ScaleMethod::kMse, 100.0f).scale == Approx(ordinary).epsilon(0.15));
  CHECK(ChooseActivationScale(spiked, {}, ScaleMethod::kMse).scale > 5 * ordinary);
}

}  // namespace spikefold
