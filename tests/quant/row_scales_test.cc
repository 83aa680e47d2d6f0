// Scales of groups that are whole multiples of one a row: whatever the weights, the method and what is kept
// apart, the matrix is one of INT8 codes with a scale a channel.
#include "quant/rounding/row_scales.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "kernels/runtime/two_level.h"
#include "quant/rounding/gptq.h"

namespace spikefold {
namespace {

constexpr int64_t kN = 40, kK = 256, kGroup = 32, kGroups = kK / kGroup;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

ThreadPool& Pool() {
  static ThreadPool pool(2);
  return pool;
}

// Gaussian rows; some have a large weight, zeros for a group or for all of it, weights of one sign, or are
// tiny, huge or of groups of very unequal size.
std::vector<float> OddRows(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> w(Size(kN * kK));
  for (int64_t i = 0; i < kN * kK; ++i) {
    const int64_t row = i / kK, column = i % kK;
    float v = normal(random);
    if (row % 8 == 1 && column == 70) v = 300;
    if (row % 8 == 2 && column / kGroup == 3) v = 0;
    if (row == 3) v = 0;
    if (row % 8 == 4) v = std::fabs(v);
    if (row == 5) v *= 1e-7f;
    if (row == 13) v *= 1e-20f;
    if (row == 21) v *= 1e6f;
    if (row == 29) v *= 1e25f;  // squares overflow
    if (row % 8 == 6) v *= std::exp2(static_cast<float>(column / kGroup * 3));
    w[Size(i)] = v;
  }
  return w;
}

// H of inputs that are correlated and of unequal size.
HessianFactor Factor(absl::Span<const int32_t> kept) {
  std::mt19937_64 random(5);
  std::normal_distribution<double> normal;
  std::vector<double> h(Size(kK * kK)), x(Size(kK));
  for (int token = 0; token < 600; ++token) {
    double common = normal(random);
    for (int64_t c = 0; c < kK; ++c) {
      common = 0.9 * common + 0.45 * normal(random);
      x[Size(c)] = common * std::exp(0.5 * std::sin(static_cast<double>(c)));
    }
    for (int64_t i = 0; i < kK * kK; ++i) h[Size(i)] += x[Size(i / kK)] * x[Size(i % kK)];
  }
  auto factor = FactorHessian(h, kK, {.kept = kept}, Pool());
  REQUIRE(factor.ok());
  return *std::move(factor);
}

bool IsTwoLevel(const RoundedWeights& q, const WeightGrid& grid) {
  return FindTwoLevel({.n = kN,
                       .k = kK,
                       .format = {.bits = grid.bits, .grouped = true, .symmetric = grid.symmetric},
                       .group = kGroup,
                       .codes = q.codes,
                       .scales = q.scales,
                       .zeros = q.zeros})
      .has_value();
}

bool AreStored(const RoundedWeights& q, const WeightGrid& grid) {
  return std::all_of(q.scales.begin(), q.scales.end(),
                     [&](float s) { return s > 0 && grid.Stored(static_cast<double>(s)) == s; });
}

}  // namespace

TEST_CASE("Multiples stay multiples in every way of rounding, whatever the weights") {
  const std::vector<float> w = OddRows(1);
  const std::vector<int32_t> kept = {3, 64, 65, 200};
  const std::vector<PlannedSuper> supers = {{1, 70}, {7, 9}, {39, 255}};
  const HessianFactor whole = Factor({}), without = Factor(kept);
  for (const int bits : {2, 3, 4}) {
    for (const bool symmetric : {true, false}) {
      for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
        for (const ScaleMethod scales : {ScaleMethod::kMse, ScaleMethod::kAbsMax}) {
          INFO(bits << (symmetric ? " bits " : " bits with zeros ") << DTypeName(dtype) << " "
                    << ScaleMethodName(scales));
          const WeightGrid grid{.bits = bits,
                                .symmetric = symmetric,
                                .group = kGroup,
                                .scale_dtype = dtype,
                                .multiples = true,
                                .scales = scales};
          const auto check = [&](const RoundedWeights& q) {
            CHECK(IsTwoLevel(q, grid));
            CHECK(AreStored(q, grid));
          };
          const RoundingInput all{.w = w, .n = kN, .k = kK};
          const RoundingInput some{.w = w, .n = kN, .k = kK, .kept = kept, .supers = supers};
          check(RoundToNearest(all, grid, {}, Pool()));
          check(RoundToNearest(some, grid, without.diagonal, Pool()));
          for (const int passes : {0, 20}) {
            const GptqOptions options{.descent_passes = passes, .scale_refits = passes / 20};
            const auto of_all = Gptq(all, whole, grid, options, Pool());
            const auto of_some = Gptq(some, without, grid, options, Pool());
            REQUIRE((of_all.ok() && of_some.ok()));
            check(*of_all);
            check(*of_some);
          }
          WeightGrid free = grid;  // the control
          free.multiples = false;
          CHECK_FALSE(IsTwoLevel(RoundToNearest(all, free, {}, Pool()), grid));
        }
      }
    }
  }
}

TEST_CASE("Multiples lose little against scales of their own, and fitting them gains") {
  std::mt19937_64 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> w(Size(kN * kK));
  for (float& v : w) v = normal(random);
  const RoundingInput input{.w = w, .n = kN, .k = kK};
  const HessianFactor factor = Factor({});
  for (const bool symmetric : {true, false}) {
    WeightGrid grid{.symmetric = symmetric, .group = kGroup, .scale_dtype = DType::kF16};
    const auto loss = [&](bool multiples, int refits) {
      grid.multiples = multiples;
      const auto q = Gptq(input, factor, grid, {.scale_refits = refits}, Pool());
      REQUIRE(q.ok());
      return q->relative_error;
    };
    CHECK(loss(true, 0) < 1.05 * loss(false, 0));
    CHECK(loss(true, 1) < 1.08 * loss(false, 1));
    CHECK(loss(true, 1) < loss(true, 0));
  }
}

TEST_CASE("Without a clip search no weight is clipped by its factor") {
  const std::vector<float> w = OddRows(3);
  const WeightGrid grid{.symmetric = false,
                        .group = kGroup,
                        .scale_dtype = DType::kF32,
                        .multiples = true,
                        .scales = ScaleMethod::kAbsMax};
  const RoundedWeights q = RoundToNearest({.w = w, .n = kN, .k = kK}, grid, {}, Pool());
  const std::vector<float> values = Dequantize(q, kN, kK, Pool());
  for (int64_t i = 0; i < kN * kK; ++i) {
    const float scale = q.scales[Size(i / kGroup)];
    // Half a step, and as much again where the zero point was rounded.
    if (std::fabs(values[Size(i)] - w[Size(i)]) > 1.01f * scale) {
      FAIL("row " << i / kK << ", column " << i % kK);
    }
  }
}

TEST_CASE("A unit is short enough for all of its multiples") {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    const WeightGrid grid{.scale_dtype = dtype};
    for (const double wish : {1e-30, 1e-7, 3.3e-6, 0.000123456, 0.0333, 0.99999, 1.7, 4063.0, 1e9}) {
      const float unit = grid.StoredUnit(wish);
      for (int f = 1; f <= kMaxGroupFactor; ++f) {
        const float multiple = static_cast<float>(f) * unit;
        CHECK(grid.Stored(static_cast<double>(multiple)) == multiple);
      }
      if (wish < 1e-5 || wish > 4000) continue;
      const double step = dtype == DType::kBF16 ? 0x1p-4 : dtype == DType::kF16 ? 0x1p-7 : 0x1p-20;
      CHECK(std::fabs(static_cast<double>(unit) - wish) <= step * wish);
    }
  }
}

}  // namespace spikefold
