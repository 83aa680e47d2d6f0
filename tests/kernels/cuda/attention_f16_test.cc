// Attention in f16 on wgmma against the definition in float64.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/cuda/device.h"
#include "kernels/kernel_check.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace attention = attention_f32_f32;

struct Case {
  int64_t m, heads, kv, d, first, window;
  bool wild = false;  // tiles and rows whose sizes lie far apart
};
std::string NameOf(const Case& c) {
  return absl::StrCat("M=", c.m, " H=", c.heads, "/", c.kv, " d=", c.d, " first=", c.first,
                      " window=", c.window);
}

struct Operands {
  explicit Operands(const Case& c)
      : q(RandomFloats(c.m * c.heads * c.d, 1)),
        k(RandomFloats((c.first + c.m) * c.kv * c.d, 2)),
        v(RandomFloats((c.first + c.m) * c.kv * c.d, 3)),
        scale(1 / std::sqrt(static_cast<float>(c.d))) {
    if (!c.wild) return;
    const auto spread = [](std::vector<float>& x, int64_t width, int64_t period, float by, float first) {
      for (size_t i = 0; i < x.size(); ++i) {
        const int64_t row = static_cast<int64_t>(i) / width;
        x[i] *= first * std::pow(by, static_cast<float>(row / period % 3));
      }
    };
    spread(q, c.heads * c.d, 1, 0x1p-20f, 0x1p8f);
    spread(k, c.kv * c.d, 1000, 1, 0x1p-8f);
    spread(v, c.kv * c.d, 128, 0x1p-22f, 0x1p26f);
  }
  std::vector<float> q, k, v;
  float scale;
};

// What the rounding of queries, keys, weights and values may make of each output: 2^-11 of every factor, of a
// score's terms as many as add up at random, with room for the worst of many rows.
void Expect(const Case& c, const Operands& x, std::vector<double>& expected, std::vector<double>& tolerance) {
  const int64_t group = c.heads / c.kv;
  std::vector<double> score, v_sum, v_size;
  for (int64_t m = 0; m < c.m; ++m) {
    const int64_t last = c.first + m, begin = c.window > 0 ? std::max<int64_t>(0, last - c.window + 1) : 0;
    for (int64_t h = 0; h < c.heads; ++h) {
      const float* q = x.q.data() + (m * c.heads + h) * c.d;
      score.clear();
      double most = -1e300, squares = 0;
      for (int64_t j = begin; j <= last; ++j) {
        const float* k = x.k.data() + (j * c.kv + h / group) * c.d;
        double sum = 0, square = 0;
        for (int64_t i = 0; i < c.d; ++i) {
          const double term = double{q[i]} * k[i] * double{x.scale};
          sum += term;
          square += term * term;
        }
        score.push_back(sum);
        most = std::max(most, sum);
        squares = std::max(squares, square);
      }
      double total = 0;
      v_sum.assign(static_cast<size_t>(c.d), 0);
      v_size.assign(static_cast<size_t>(c.d), 0);
      for (int64_t j = begin; j <= last; ++j) {
        const double w = std::exp(score[static_cast<size_t>(j - begin)] - most);
        const float* v = x.v.data() + (j * c.kv + h / group) * c.d;
        total += w;
        for (size_t i = 0; i < v_sum.size(); ++i) {
          v_sum[i] += w * double{v[i]};
          v_size[i] += w * std::abs(double{v[i]});
        }
      }
      const double error = 2 * std::expm1(0x1p-10 * 2 * std::sqrt(squares)) + 0x1p-10;
      for (size_t i = 0; i < v_sum.size(); ++i) {
        expected.push_back(v_sum[i] / total);
        tolerance.push_back(v_size[i] / total * error + 0x1p-24 * (c.wild ? 0x1p26 : 1.0));
      }
    }
  }
}

attention::CudaParams ParamsOf(const Case& c, const Array<float>& q, const Array<float>& k,
                               const Array<float>& v, float scale, float* o) {
  return {.m = c.m,
          .num_heads = c.heads,
          .num_kv_heads = c.kv,
          .head_dim = c.d,
          .q = q.data(),
          .k = k.data(),
          .v = v.data(),
          .first = c.first,
          .scale = scale,
          .window = c.window,
          .o = o};
}

std::vector<float> Run(const Case& c, const Operands& x) {
  const Array<float> q(x.q), k(x.k), v(x.v), o(c.m * c.heads * c.d);
  const Array<uint8_t> tiles(attention::F16Bytes(c.first + c.m, c.kv, c.d));
  const attention::CudaParams p = ParamsOf(c, q, k, v, x.scale, o.data());
  REQUIRE(attention::SupportsF16(p, *cuda::QueryDevice()));
  Ok(attention::RunF16(p, tiles.data(), TheStream()));
  (void)tiles.Read();  // its guards
  return o.Read();
}

const std::vector<Case> kCases = {
    {1, 2, 1, 16, 0, 0},         {70, 9, 3, 64, 0, 0},          {33, 4, 1, 256, 5, 0},
    {40, 4, 2, 64, 100, 32},     {3, 2, 2, 80, 300, 7},         {65, 2, 1, 128, 0, 1},
    {150, 4, 1, 96, 64, 0},      {600, 16, 4, 128, 70, 0},      {300, 12, 12, 64, 0, 100},
    {129, 2, 1, 20, 3, 0},       {256, 2, 2, 128, 256, 0},      {200, 4, 2, 256, 130, 90},
    {1, 3, 1, 128, 511, 0},      {257, 2, 1, 128, 700, 130},    {300, 4, 2, 128, 200, 0, true},
    {300, 2, 1, 64, 3, 0, true}, {130, 2, 2, 256, 300, 0, true}};

TEST_CASE("Attention in f16 holds its bound, and a row's result does not depend on the rows beside it",
          "[gpu][attention][hopper]") {
  CheckReport report;
  for (const Case& c : kCases) {
    const Operands x(c);
    std::vector<double> expected, tolerance;
    Expect(c, x, expected, tolerance);
    const std::vector<float> all = Run(c, x);
    report.Compare(NameOf(c), all, expected, tolerance);
    double wrong = 0, size = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      wrong += (all[i] - expected[i]) * (all[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    INFO(NameOf(c));
    CHECK(std::sqrt(wrong / size) < 1e-3);  // bf16 would leave four times as much

    const Array<float> q(x.q), k(x.k), v(x.v), one(c.heads * c.d);
    const Array<uint8_t> tiles(attention::F16Bytes(c.first + c.m, c.kv, c.d));
    for (const int64_t row : {int64_t{0}, c.m / 2, c.m - 1}) {
      attention::CudaParams alone = ParamsOf(c, q, k, v, x.scale, one.data());
      alone.m = 1;
      alone.first = c.first + row;
      alone.q = q.data() + row * c.heads * c.d;
      Ok(attention::RunF16(alone, tiles.data(), TheStream()));
      const std::vector<float> beside(all.begin() + row * c.heads * c.d,
                                      all.begin() + (row + 1) * c.heads * c.d);
      report.CompareExact(absl::StrCat(NameOf(c), " row ", row), one.Read(), beside);
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("One wrong value, and a window one key too long, fail the check of attention in f16",
          "[gpu][attention][hopper]") {
  const Case plain = {200, 2, 1, 128, 60, 0}, slides = {200, 2, 1, 128, 60, 9};
  enum class Break { kNothing, kKey, kValue, kWindow };
  for (const Break what : {Break::kNothing, Break::kKey, Break::kValue, Break::kWindow}) {
    Case c = what == Break::kWindow ? slides : plain;
    Operands x(c);
    std::vector<double> expected, tolerance;
    Expect(c, x, expected, tolerance);
    if (what == Break::kKey) x.k[static_cast<size_t>(100 * c.d + 5)] += 8;
    if (what == Break::kValue) x.v[static_cast<size_t>(100 * c.d + 5)] += 8;
    if (what == Break::kWindow) ++c.window;
    CheckReport report;
    report.Compare(NameOf(c), Run(c, x), expected, tolerance);
    INFO(static_cast<int>(what) << ' ' << report.detail);
    CHECK(report.ok() == (what == Break::kNothing));
  }
}

TEST_CASE("Attention in f16 gives the same bits in every run", "[gpu][attention][hopper]") {
  const Case c = {700, 8, 2, 128, 50, 0};
  const Operands x(c);
  const std::vector<float> once = Run(c, x);
  for (int i = 0; i < 20; ++i) CHECK(Run(c, x) == once);
}

}  // namespace
}  // namespace spikefold::kernels
