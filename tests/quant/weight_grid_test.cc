// Grids of 2 to 8 bits: what they hold, and that their clip search reaches the best signal to noise ratio of
// known distributions (by numerical integration, 2^b - 1 levels; the grids here have one level more below 8).
#include "quant/rounding/weight_grid.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

namespace spikefold {
namespace {

double Decibel(double error, double power) { return 10 * std::log10(power / error); }

// Signal to noise ratio of `draw`'s values on a grid, in groups large enough for the distribution's own clip.
template <typename Draw>
double Ratio(const WeightGrid& grid, const Draw& draw) {
  std::mt19937_64 rng(1);
  std::vector<float> w(8192);
  double power = 0, error = 0;
  for (int group = 0; group < 32; ++group) {
    for (float& v : w) {
      v = static_cast<float>(draw(rng));
      power += static_cast<double>(v) * static_cast<double>(v);
    }
    error += GroupError(w.data(), nullptr, 8192, ChooseScale(w.data(), nullptr, 8192, grid), grid);
  }
  return Decibel(error, power);
}
double Gauss(std::mt19937_64& rng) { return std::normal_distribution<double>()(rng); }
double Laplace(std::mt19937_64& rng) {
  return std::exponential_distribution<double>(std::sqrt(2.0))(rng) * ((rng() & 1) != 0 ? 1 : -1);
}

}  // namespace

TEST_CASE("The clip search finds the best clip of each width") {
  // The grid of factors is 0.03 of the largest value apart, and ends at 0.4 of it: Laplace data of 3 bits
  // wants less.
  const auto ratio = [](int bits, auto draw) {
    return Ratio({.bits = bits, .scale_dtype = DType::kF32}, draw);
  };
  // At 8 bits the optimum clips so rarely that a group of 8192 values can do better than its distribution.
  CHECK(ratio(8, Gauss) == Approx(40.5 + 0.5).margin(0.5));
  CHECK(ratio(4, Gauss) == Approx(18.9 + 0.3).margin(0.35));
  CHECK(ratio(3, Gauss) == Approx(13.3 + 0.6).margin(0.5));
  CHECK(ratio(8, Laplace) == Approx(35.2 + 1).margin(1));
  CHECK(ratio(4, Laplace) > 14.5);
  const WeightGrid unclipped{.bits = 4, .scale_dtype = DType::kF32, .scales = ScaleMethod::kAbsMax};
  CHECK(Ratio(unclipped, Gauss) < 17);  // the control
}

TEST_CASE("An asymmetric grid follows a lopsided group, and always holds zero") {
  const auto positive = [](std::mt19937_64& rng) { return std::abs(Gauss(rng)); };
  const WeightGrid symmetric{.bits = 4}, asymmetric{.bits = 4, .symmetric = false};
  CHECK(Ratio(asymmetric, positive) > Ratio(symmetric, positive) + 4);
  for (const int bits : {2, 3, 4, 8}) {
    const WeightGrid grid{.bits = bits, .symmetric = false, .scales = ScaleMethod::kAbsMax};
    for (const std::vector<float>& w :
         {std::vector<float>{3, 4, 5, 3.5f}, {-3, -4, -5, -3.5f}, {-1, 0, 2, 1}}) {
      const GroupScale s = ChooseScale(w.data(), nullptr, 4, grid);
      CHECK(s.zero == std::nearbyint(s.zero));
      CHECK((s.zero >= static_cast<float>(grid.lo()) && s.zero <= static_cast<float>(grid.hi())));
      CHECK(GridPoint(0.0f, s, grid) == 0.0f);
      for (const float v : w) {  // nothing clips, but for the rounding of scale and zero
        CHECK(std::abs(v - s.scale * GridPoint(v, s, grid)) <= 1.02f * s.scale);
        const float code = GridPoint(v, s, grid) + s.zero;
        CHECK((code >= static_cast<float>(grid.lo()) && code <= static_cast<float>(grid.hi())));
      }
    }
  }
}

TEST_CASE("Scales are those that the file can hold") {
  const auto stored = [](DType dtype, double scale) {
    return WeightGrid{.scale_dtype = dtype}.Stored(scale);
  };
  CHECK(stored(DType::kF32, 0.1) == 0.1f);
  CHECK(stored(DType::kBF16, 0.1) == 0.10009765625f);
  CHECK(stored(DType::kF16, 0.1) == 0.0999755859375f);
  CHECK(stored(DType::kF16, 1e-12) == 0x1p-24f);  // never zero, never infinite
  CHECK(stored(DType::kF16, 1e12) == 65504.0f);
  CHECK(stored(DType::kBF16, 0) == 0x1p-126f);
  const std::vector<float> zeros(16);
  CHECK(ChooseScale(zeros.data(), nullptr, 16, {}).scale == 1.0f);
}

}  // namespace spikefold
