// Trellis codes as a way of rounding: the path is the best one, the errors are those that the format claims,
// and in a Hessian's metric they beat a grid of more bits.
#include "formats/quantized/trellis.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "kernels/trellis_s8_f32/trellis_s8_f32.h"
#include "quant/forecast.h"
#include "quant/planner.h"
#include "quant/rounding/gptq.h"
#include "quant/rounding/round_weights.h"
#include "quant/treatments.h"
#include "tests/quant/quant_kit.h"
#include "tests/testing/status_matchers.h"

namespace spikefold::testing {
namespace {

std::vector<float> Gaussian(size_t count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& v : out) v = normal(rng);
  return out;
}

// Inputs that are correlated and of unequal size.
std::vector<double> Hessian(size_t k, uint64_t seed) {
  const std::vector<float> noise = Gaussian(3 * k * k, seed);
  std::vector<double> h(k * k), x(k);
  for (size_t t = 0; t < 3 * k; ++t) {
    for (size_t c = 0; c < k; ++c) {
      const double fresh = static_cast<double>(noise[t * k + c]) * (1 + static_cast<double>(c % 5));
      x[c] = c == 0 ? fresh : 0.8 * x[c - 1] + 0.6 * fresh;
    }
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) h[i * k + j] += x[i] * x[j];
    }
  }
  return h;
}

RoundedWeights Round(const RoundingInput& in, const HessianFactor& factor, const WeightGrid& grid,
                     ThreadPool& pool = TestPool()) {
  auto rounded = Gptq(in, factor, grid, {}, pool);
  CAPTURE(rounded.status().ToString());
  REQUIRE(rounded.ok());
  return *std::move(rounded);
}

}  // namespace

TEST_CASE("The path through the trellis is the nearest of all paths") {
  const std::vector<float> levels(TrellisLevels(), TrellisLevels() + kTrellisStates);
  for (const auto& shape : {std::pair{2, 6}, {3, 4}, {4, 3}, {5, 2}, {6, 2}}) {
    const int bits = shape.first, rows = shape.second;
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      CAPTURE(bits, seed);
      const size_t n = static_cast<size_t>(rows);
      const std::vector<float> target = Gaussian(n, seed);
      std::vector<float> scale(n);
      for (size_t i = 0; i < n; ++i) scale[i] = 0.02f + 0.01f * static_cast<float>(i);
      const auto loss = [&](auto state_at) {
        double sum = 0;
        for (size_t i = 0; i < n; ++i) {
          const double e = static_cast<double>(target[i] - scale[i] * levels[state_at(i)]);
          sum += e * e;
        }
        return sum;
      };
      double best = 1e30;
      for (uint32_t path = 0; path < 1u << (bits * rows); ++path) {  // its codes, the first on top
        best = std::min(best, loss([&](size_t i) {
                          return (path >> (bits * (rows - 1 - static_cast<int>(i)))) & (kTrellisStates - 1);
                        }));
      }
      std::vector<uint16_t> states(n);
      kernels::trellis_s8_f32::Scratch scratch;
      const absl::Status status = kernels::trellis_s8_f32::Run({.bits = bits,
                                                                .n = rows,
                                                                .levels = levels.data(),
                                                                .target = target.data(),
                                                                .scale = scale.data(),
                                                                .states = states.data()},
                                                               scratch);
      REQUIRE(status.ok());
      CHECK(loss([&](size_t i) { return states[i]; }) == Approx(best).epsilon(1e-4));
    }
  }
}

TEST_CASE("Gaussian weights lose what the trellis claims, half of what the best grid without memory does") {
  const int64_t n = 512, k = 16;
  const std::vector<float> w = Gaussian(static_cast<size_t>(n * k), 3);
  const RoundingInput in{.w = w, .n = n, .k = k};
  for (int bits = kTrellisMinBits; bits <= kTrellisMaxBits; ++bits) {
    CAPTURE(bits);
    const RoundedWeights q = RoundToNearest(in, {.bits = bits, .trellis = true}, {}, TestPool());
    CHECK(q.relative_error == Approx(TrellisError(bits)).epsilon(0.06));
  }
  CHECK(TrellisError(4) < 0.55 * 0.0095);  // J. Max 1960: 16 levels
}

TEST_CASE("Nearest paths are those of a Hessian that is zero beside its diagonal, to the last bit") {
  const int64_t n = 300, k = 96;
  const std::vector<float> w = Gaussian(static_cast<size_t>(n * k), 5);
  const RoundingInput in{.w = w, .n = n, .k = k};
  std::vector<float> importance;
  for (const float v : Gaussian(static_cast<size_t>(k), 6)) importance.push_back(v * v);
  HessianFactor full;
  full.k = k;
  full.h = Tensor(DType::kF32, {k, k});
  full.feedback = Tensor(DType::kF32, {k, k});
  for (int64_t c = 0; c < k; ++c) {
    full.order.push_back(static_cast<int32_t>(c));
    full.h.as<float>()[static_cast<size_t>(c * (k + 1))] = importance[static_cast<size_t>(c)];
  }
  const WeightGrid paths{.bits = 4, .trellis = true};
  const RoundedWeights a = RoundToNearest(in, paths, importance, TestPool()), b = Round(in, full, paths);
  CHECK(a.codes == b.codes);
  CHECK(a.scales == b.scales);
  CHECK(a.relative_error == b.relative_error);
  full.h = Tensor();
  CHECK_THAT(Gptq(in, full, {.bits = 4}, {}, TestPool()).status(),
             Fails(absl::StatusCode::kInvalidArgument, "grids and blocks need all of it"));
}

TEST_CASE("A thread that rounds paths takes a panel of 256 rows, as many as there are") {
  const Scanned s = ScanTiny(PlainModel());
  PlannerInput input = s.input();
  input.folds.rotated = true;
  const auto plan = MakePlan({.scheme = "w4a16", .rounding = Rounding::kGptq}, input);
  REQUIRE(plan.ok());
  REQUIRE(plan->linears.front().trellis);
  const auto all = [](const TensorDecision&) { return true; };
  const auto bytes = [&](int num_threads) {
    return ForecastMemory({.plan = &*plan,
                           .reader = s.tiny.checkpoint.get(),
                           .writes = all,
                           .windows = {64, 64},
                           .num_threads = num_threads})
        .bytes;
  };
  CHECK(bytes(3) > 3 * 17 * 256 * 64);  // q, k and v are rounded in one go
  CHECK(bytes(1) < bytes(3));
  CHECK(bytes(16) == bytes(3));
}

TEST_CASE("In the metric of a Hessian 4-bit paths beat 4-bit groups") {
  const int64_t n = 300, k = 96;
  const std::vector<float> w = Gaussian(static_cast<size_t>(n * k), 5);
  const RoundingInput in{.w = w, .n = n, .k = k};
  const auto factor = FactorHessian(Hessian(static_cast<size_t>(k), 7), k, {}, TestPool());
  REQUIRE(factor.ok());
  const RoundedWeights groups = Round(in, *factor, {.bits = 4, .symmetric = false, .group = 32});
  const RoundedWeights q = Round(in, *factor, {.bits = 4, .trellis = true});
  CHECK(q.relative_error < 0.9 * groups.relative_error);  // with more than half a bit less
  // What was measured is what the codes stand for.
  const std::vector<float> back = Dequantize(q, n, k, TestPool());
  const float* h = factor->h.as<float>().data();
  double error = 0, power = 0;
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < k; ++j) {
        const auto at = [&](const std::vector<float>& v, int64_t c) {
          return static_cast<double>(v[static_cast<size_t>(r * k + c)]);
        };
        const double hij = static_cast<double>(h[i * k + j]);
        error += (at(w, i) - at(back, i)) * hij * (at(w, j) - at(back, j));
        power += at(w, i) * hij * at(w, j);
      }
    }
  }
  CHECK(q.relative_error == Approx(error / power).epsilon(1e-3));
}

TEST_CASE("Paths do not depend on the threads; rows of zeros stay next to nothing") {
  const int64_t n = 520, k = 40;
  std::vector<float> w = Gaussian(static_cast<size_t>(n * k), 11);
  std::fill_n(w.begin() + 7 * k, k, 0.0f);
  const RoundingInput in{.w = w, .n = n, .k = k};
  const auto factor = FactorHessian(Hessian(static_cast<size_t>(k), 2), k, {}, TestPool());
  REQUIRE(factor.ok());
  ThreadPool one(1);
  const RoundedWeights a = Round(in, *factor, {.bits = 3, .trellis = true}, one);
  const RoundedWeights b = Round(in, *factor, {.bits = 3, .trellis = true});
  CHECK(a.codes == b.codes);
  CHECK(a.scales == b.scales);
  const std::vector<float> back = Dequantize(a, n, k, TestPool());
  for (int64_t c = 0; c < k; ++c) CHECK(std::fabs(back[static_cast<size_t>(7 * k + c)]) < 1e-20f);
}

TEST_CASE("Rotated weights become paths unless something asks for a grid; both wishes together are refused") {
  const Scanned s = ScanTiny(PlainModel());
  const auto trellis = [&](const Recipe& recipe, bool rotated) -> absl::StatusOr<bool> {
    PlannerInput input = s.input();
    input.folds.rotated = rotated;
    auto plan = MakePlan(recipe, input);
    if (!plan.ok()) return plan.status();
    for (const TensorDecision& d : plan->linears) CHECK(d.trellis == plan->linears.front().trellis);
    CHECK((plan->group_size == 0) == (plan->linears.front().group_size == 0));
    return plan->linears.front().trellis;
  };
  CHECK(*trellis({.scheme = "w4a16"}, true));
  CHECK_FALSE(*trellis({.scheme = "w4a16"}, false));
  CHECK_FALSE(*trellis({.scheme = "w8a8"}, true));
  CHECK_FALSE(*trellis({.scheme = "w4a16", .group_size = 32}, true));
  CHECK_FALSE(*trellis({.scheme = "w4a8", .codes = Codes::kGrid}, true));
  CHECK_FALSE(*trellis({.scheme = "w4a16", .zero_points = ZeroPoints::kNone}, true));
  CHECK_FALSE(*trellis({.scheme = "w4a8", .keep_columns = 4}, true));
  CHECK(*trellis({.scheme = "w3a16", .codes = Codes::kTrellis}, false));
  const auto refused = [&](Recipe recipe, const char* text) {
    recipe.codes = Codes::kTrellis;
    CHECK_THAT(trellis(recipe, true).status(), Fails(absl::StatusCode::kInvalidArgument, text));
  };
  refused({.scheme = "w8a8"}, "do not go together with an 8-bit scheme");
  refused({.scheme = "w4a16", .group_size = 32}, "do not go together with a group size");
  refused({.scheme = "w4a16", .zero_points = ZeroPoints::kBoth}, "with zero points for weights");
  refused({.scheme = "w4a16", .keep_columns = 4}, "with kept columns");
  refused({.scheme = "w4a16", .keep_super_weights = true}, "with super weights");
}

}  // namespace spikefold::testing
