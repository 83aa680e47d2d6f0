// GPTQ against a numpy reference frozen in tests/data/rounding (tests/data/make/gptq_reference.py), and what
// must hold for any input.
#include "quant/rounding/gptq.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "formats/safetensors.h"

namespace spikefold {
namespace {

ThreadPool& Pool() {
  static ThreadPool pool(2);
  return pool;
}

template <typename T>
std::vector<T> Read(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.Find(name);
  REQUIRE(entry != nullptr);
  auto tensor = file.Read(*entry);
  REQUIRE(tensor.ok());
  const auto values = tensor->as<T>();
  return {values.begin(), values.end()};
}

std::vector<double> HessianOf(const std::vector<float>& x, size_t k) {
  std::vector<double> h(k * k);
  for (size_t t = 0; t < x.size() / k; ++t) {
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) {
        h[i * k + j] += static_cast<double>(x[t * k + i]) * static_cast<double>(x[t * k + j]);
      }
    }
  }
  return h;
}

// A random problem whose inputs are correlated and of unequal size.
struct Problem {
  Problem(int64_t rows, int64_t columns, int64_t tokens, uint64_t seed)
      : n(rows), k(columns), w(static_cast<size_t>(n * k)) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<double> normal;
    const size_t width = static_cast<size_t>(k);
    std::vector<float> x(static_cast<size_t>(tokens) * width);
    std::vector<double> size(width);
    for (double& s : size) s = std::exp(normal(rng));
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
      double common = normal(rng);
      for (size_t c = 0; c < width; ++c) {
        common = 0.9 * common + 0.45 * normal(rng);
        x[t * width + c] = static_cast<float>(size[c] * common);
      }
    }
    for (float& v : w) v = static_cast<float>(normal(rng));
    h = HessianOf(x, width);
  }
  RoundingInput input() const { return {.w = w, .n = n, .k = k}; }
  HessianFactor Factor(const FactorOptions& options = {}) const {
    auto factor = FactorHessian(h, k, options, Pool());
    REQUIRE(factor.ok());
    return *std::move(factor);
  }
  int64_t n, k;
  std::vector<float> w;
  std::vector<double> h;
};

// tr(dW H dW^T) / tr(W H W^T) in plain loops.
double Loss(const RoundingInput& in, const std::vector<double>& h, const GridWeights& q) {
  const std::vector<float> values = Dequantize(q, in.n, in.k, Pool());
  const size_t n = static_cast<size_t>(in.n), k = static_cast<size_t>(in.k);
  std::vector<double> e(k);
  double error = 0, power = 0;
  for (size_t r = 0; r < n; ++r) {
    for (size_t c = 0; c < k; ++c) {
      e[c] = static_cast<double>(in.w[r * k + c]) - static_cast<double>(values[r * k + c]);
    }
    for (const int32_t c : in.kept) e[static_cast<size_t>(c)] = 0;
    for (const PlannedSuper& s : in.supers) {
      if (s.row == static_cast<int32_t>(r)) e[static_cast<size_t>(s.column)] = 0;
    }
    for (size_t i = 0; i < k; ++i) {
      for (size_t j = 0; j < k; ++j) {
        error += e[i] * h[i * k + j] * e[j];
        power += static_cast<double>(in.w[r * k + i]) * h[i * k + j] * static_cast<double>(in.w[r * k + j]);
      }
    }
  }
  return error / power;
}

RoundedWeights MustRound(const RoundingInput& in, const HessianFactor& factor, const WeightGrid& grid,
                         const GptqOptions& options = {.descent_passes = 0, .scale_refits = 0}) {
  auto rounded = Gptq(in, factor, grid, options, Pool());
  CAPTURE(rounded.status().ToString());
  REQUIRE(rounded.ok());
  return *std::move(rounded);
}

}  // namespace

TEST_CASE("Codes, scales, zeros and loss are those of a reference in numpy") {
  auto file = SafetensorsFile::Open(std::string(SPIKEFOLD_TEST_DATA) + "/rounding/gptq.safetensors");
  REQUIRE(file.ok());
  for (const std::string name : {"sym4", "asym3", "asym2", "sym8"}) {
    INFO(name);
    const auto x = Read<float>(**file, name + ".x"), w = Read<float>(**file, name + ".w");
    const auto kept = Read<int32_t>(**file, name + ".kept"), g = Read<int32_t>(**file, name + ".grid");
    const WeightGrid grid{
        .bits = g[0], .symmetric = g[1] != 0, .group = g[2], .scales = ScaleMethod::kAbsMax};
    const std::vector<double> h = HessianOf(x, 128);
    const auto factor = FactorHessian(h, 128, {.kept = kept}, Pool());
    REQUIRE(factor.ok());
    const RoundingInput in{.w = w, .n = static_cast<int64_t>(w.size()) / 128, .k = 128, .kept = kept};
    RoundedWeights q = MustRound(in, *factor, grid);
    const double loss = Read<double>(**file, name + ".loss")[0];
    CHECK(q.scales == Read<float>(**file, name + ".scales"));
    if (!grid.symmetric) CHECK(q.zeros == Read<int8_t>(**file, name + ".zeros"));
    CHECK(q.codes == Read<int8_t>(**file, name + ".codes"));
    CHECK(q.relative_error == Approx(loss).epsilon(1e-3));
    CHECK(Loss(in, h, q) == Approx(loss).epsilon(1e-3));
    const size_t first = static_cast<size_t>(factor->order[0]);
    q.codes[128 + first] = static_cast<int8_t>(q.codes[128 + first] ^ 1);  // canary: one code, one step
    CHECK(Loss(in, h, q) != Approx(loss).epsilon(1e-3));
  }
}

TEST_CASE("Without correlations GPTQ is rounding to nearest; with them it is better") {
  Problem p(70, 192, 512, 1);
  for (const bool symmetric : {true, false}) {
    const WeightGrid grid{.bits = 3, .symmetric = symmetric, .group = 64};
    const HessianFactor factor = p.Factor();
    const RoundedWeights nearest = RoundToNearest(p.input(), grid, factor.diagonal, Pool());
    const RoundedWeights gptq = MustRound(p.input(), factor, grid);
    CHECK(gptq.scales == nearest.scales);
    CHECK(gptq.relative_error < 0.6 * Loss(p.input(), p.h, nearest));
    CHECK(gptq.relative_error == Approx(Loss(p.input(), p.h, gptq)).epsilon(1e-3));
  }
  for (size_t i = 0; i < p.h.size(); ++i) p.h[i] = i % 193 == 0 ? 2.0 : 0.0;
  const WeightGrid grid{.bits = 4, .symmetric = false, .group = 32};
  const RoundedWeights a = MustRound(p.input(), p.Factor(), grid);
  const RoundedWeights b = RoundToNearest(p.input(), grid, {}, Pool());
  CHECK(a.codes == b.codes);
  CHECK(a.zeros == b.zeros);
  CHECK(a.relative_error == Approx(b.relative_error).epsilon(1e-4));
}

TEST_CASE("The order by size of input beats the order of columns") {
  const Problem p(64, 256, 1024, 2);
  const WeightGrid grid{.bits = 3, .group = 64};
  const double ordered = MustRound(p.input(), p.Factor(), grid).relative_error;
  const double plain = MustRound(p.input(), p.Factor({.act_order = false}), grid).relative_error;
  CHECK(ordered < plain);
}

TEST_CASE("Descent and refitted scales lower the loss, and the end of a descent is a minimum") {
  const Problem p(64, 192, 512, 7);
  const HessianFactor factor = p.Factor();
  for (const bool symmetric : {true, false}) {
    const WeightGrid grid{.bits = 3, .symmetric = symmetric, .group = 64};
    const auto loss = [&](const GptqOptions& options) {
      const RoundedWeights q = MustRound(p.input(), factor, grid, options);
      CHECK(q.relative_error == Approx(Loss(p.input(), p.h, q)).epsilon(1e-3));
      return q.relative_error;
    };
    const double gptq = loss({.descent_passes = 0, .scale_refits = 0}), descent = loss({.scale_refits = 0});
    CHECK(descent < 0.97 * gptq);
    CHECK(loss({.scale_refits = 1}) < 0.99 * descent);
    const RoundedWeights q = MustRound(p.input(), factor, grid, {.scale_refits = 0});
    std::vector<double> damped = p.h;
    for (size_t i = 0; i < 192; ++i) damped[i * 193] += factor.damping;
    const double least = Loss(p.input(), damped, q);
    for (size_t i = 0; i < 192; ++i) {  // no single code of row 5 can do better
      for (const int step : {-1, 1}) {
        const int lo = grid.lo(), hi = grid.hi(), code = q.codes[5 * 192 + i] + step;
        if (code < lo || code > hi) continue;
        RoundedWeights other = q;
        other.codes[5 * 192 + i] = static_cast<int8_t>(code);
        CHECK(Loss(p.input(), damped, other) > least * (1 - 1e-6));
      }
    }
  }
}

TEST_CASE("A singular Hessian is damped until it factors, and dead columns are rounded alone") {
  Problem p(32, 96, 20, 3);  // 20 tokens for 96 columns
  const HessianFactor weak = p.Factor({.damping = 0});
  CHECK(weak.damping_share > 0);
  CHECK(p.Factor().damping_share == 0.01);
  Problem wide = p;
  for (size_t i = 0; i < 96; ++i) wide.h[i * 96 + 5] *= 1e4, wide.h[5 * 96 + i] *= 1e4;
  CHECK(wide.Factor({.kept = {5}}).damping == Approx(p.Factor({.kept = {5}}).damping));  // whatever is kept
  for (size_t i = 0; i < 96; ++i) p.h[i * 96 + 17] = p.h[17 * 96 + i] = 0;
  const HessianFactor factor = p.Factor();
  CHECK(factor.num_dead == 1);
  const WeightGrid grid{.bits = 4, .group = 32};
  const RoundedWeights q = MustRound(p.input(), factor, grid);
  for (size_t r = 0; r < 32; ++r) {
    const float scale = q.scales[r * 3];
    CHECK(q.codes[r * 96 + 17] == std::clamp(std::nearbyint(p.w[r * 96 + 17] / scale), -8.0f, 7.0f));
  }
}

TEST_CASE("Kept columns and super weights leave no trace, and the others make up for what they cost") {
  Problem p(40, 128, 512, 4);
  const std::vector<int32_t> kept = {3, 70};
  const std::vector<PlannedSuper> supers = {{2, 100}, {39, 5}};
  for (const bool symmetric : {true, false}) {
    const WeightGrid grid{.bits = 4, .symmetric = symmetric, .group = 64};
    RoundingInput in = p.input();
    in.kept = kept;
    in.supers = supers;
    const HessianFactor factor = p.Factor({.kept = kept});
    const RoundedWeights before = MustRound(in, factor, grid);
    CHECK(before.relative_error == Approx(Loss(in, p.h, before)).epsilon(1e-3));
    Problem other = p;
    for (size_t row = 0; row < 40; ++row) other.w[row * 128 + 3] = other.w[row * 128 + 70] = 1e3f;
    other.w[2 * 128 + 100] = other.w[39 * 128 + 5] = -1e3f;
    in.w = other.w;
    const RoundedWeights after = MustRound(in, factor, grid);
    CHECK(after.codes == before.codes);
    CHECK(after.scales == before.scales);
    const auto zero = [&](size_t row, size_t group) {
      return symmetric ? 0 : int{after.zeros[row * 2 + group]};
    };
    for (size_t row = 0; row < 40; ++row) CHECK(int{after.codes[row * 128 + 70]} == zero(row, 1));
    CHECK(int{after.codes[2 * 128 + 100]} == zero(2, 1));
    in.supers = {};  // the canary: without its exemption the large weight rules its group
    CHECK(MustRound(in, factor, grid).scales != before.scales);
  }
}

TEST_CASE("Rounding does not depend on the threads") {
  const Problem p(75, 160, 256, 5);
  const WeightGrid grid{.bits = 4, .symmetric = false, .group = 32};
  ThreadPool one(1);
  auto factor = FactorHessian(p.h, p.k, {}, one);
  REQUIRE(factor.ok());
  auto a = Gptq(p.input(), *factor, grid, {.scale_refits = 1}, one);
  REQUIRE(a.ok());
  const RoundedWeights b = MustRound(p.input(), p.Factor(), grid, {.scale_refits = 1});
  CHECK(a->codes == b.codes);
  CHECK(a->relative_error == b.relative_error);
}

TEST_CASE("Linears that are rounded together get what each gets alone, refusals as well") {
  const Problem p(600, 96, 128, 7), q(40, 96, 128, 8), r(300, 96, 128, 9);
  const HessianFactor factor = p.Factor();
  const WeightGrid paths{.bits = 3, .trellis = true, .scale_dtype = DType::kF32},
      grid{.bits = 4, .symmetric = false, .group = 32}, wrong{.bits = 9};
  const std::vector<GptqTask> tasks = {
      {q.input(), grid}, {p.input(), paths}, {r.input(), wrong}, {r.input(), paths}};
  const auto together = Gptq(tasks, factor, {}, Pool());
  REQUIRE(together.size() == 4);
  CHECK(together[2].status().message() == "gptq: 9-bit weights; use 2 to 8 bits");
  for (const size_t i : {0, 1, 3}) {
    CAPTURE(i);
    REQUIRE(together[i].ok());
    const RoundedWeights alone = MustRound(tasks[i].input, factor, tasks[i].grid, {});
    CHECK(together[i]->codes == alone.codes);
    CHECK(together[i]->scales == alone.scales);
    CHECK(together[i]->zeros == alone.zeros);
    CHECK(together[i]->trellis_bits == alone.trellis_bits);
    CHECK(together[i]->relative_error == alone.relative_error);
  }
  CHECK(together[0]->trellis_bits == 0);
  CHECK(together[1]->codes.size() == 600 * 96);
}

TEST_CASE("Impossible problems are refused with the remedy") {
  Problem p(8, 64, 64, 6);
  const HessianFactor factor = p.Factor();
  const auto refusal = [&](const WeightGrid& grid) {
    return std::string(Gptq(p.input(), factor, grid, {}, Pool()).status().message());
  };
  CHECK(refusal({.bits = 9}) == "gptq: 9-bit weights; use 2 to 8 bits");
  CHECK(refusal({.group = 48}) == "gptq: K=64 is not a multiple of group_size=48; use 16, 32, 64");
  CHECK(refusal({.scale_dtype = DType::kI8}) == "gptq: scales of I8; use F32, BF16 or F16");
  RoundingInput in = p.input();
  const std::vector<int32_t> kept = {1};
  in.kept = kept;
  CHECK(Gptq(in, factor, {}, {}, Pool()).status().message() ==
        "gptq: the Hessian was factored with 0 kept columns, not 1");
  p.h[5] = std::nan("");
  CHECK(absl::IsInvalidArgument(FactorHessian(p.h, 64, {}, Pool()).status()));
}

TEST_CASE("A linear whose inputs are all zero is rounded to the nearest codes") {
  Problem p(8, 64, 64, 6);
  const std::vector<double> zeros(p.h.size());
  const auto factor = FactorHessian(zeros, 64, {}, Pool());
  REQUIRE(factor.ok());
  CHECK(factor->num_dead == 64);
  const auto rounded = Gptq(p.input(), *factor, {.group = 32}, {}, Pool());
  REQUIRE(rounded.ok());
  const auto again = Gptq(p.input(), *factor, {.group = 32}, {}, Pool());
  CHECK(rounded->codes == again->codes);
  for (const float scale : rounded->scales) CHECK((std::isfinite(scale) && scale > 0));
}

}  // namespace spikefold
