// Kernels for sm_90a against their references; refused elsewhere.
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "kernels/cuda/device.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace w8a8 = matmul_bf16_s8r_s8c;

std::vector<uint16_t> RandomBf16(int64_t count, uint64_t seed) {
  std::vector<uint16_t> out;
  for (const float v : RandomFloats(count, seed)) out.push_back(FloatToBf16(v));
  return out;
}

const std::vector<cuda::pingpong::Plan> kChosen(1);  // by shape
const std::vector<cuda::pingpong::Plan> kTiles = {
    {.tile_m = 64, .tile_n = 64}, {.tile_m = 64, .tile_n = 128}, {.tile_m = 128, .tile_n = 128}};

struct Case {
  int64_t m, n, k, kept = 0;
  bool bias = false, extremes = false;
  std::vector<cuda::pingpong::Plan> tiles = kChosen;  // by turns
  cuda::few::Plan plan = {};
  bool sm80 = false;
};

// With `flip` one operand of the GPU is wrong: 1 a code, 2 a kept column, 3 a scale.
void Check(const Case& c, int flip, CheckReport& report) {
  const cuda::DeviceInfo device = *cuda::QueryDevice();
  std::vector<int8_t> x = RandomCodes(c.m * c.k, -127, 127, 1), w = RandomCodes(c.n * c.k, -127, 127, 2);
  if (c.extremes) {
    for (int8_t& v : x) v = 127;
    for (int8_t& v : w) v = v % 3 == 0 ? -127 : 127;
  }
  std::vector<float> x_scale = RandomFloats(c.m, 3), w_scale = RandomFloats(c.n, 4),
                     bias = RandomFloats(c.n, 5);
  for (float& s : x_scale) s = 0.01f * (std::abs(s) + 0.1f);
  for (float& s : w_scale) s = 0.01f * (std::abs(s) + 0.1f);
  std::vector<uint16_t> kept_x = RandomBf16(c.m * c.kept, 6), kept_w = RandomBf16(c.n * c.kept, 7);
  std::vector<uint16_t> expected(static_cast<size_t>(c.m * c.n));
  w8a8::Params p = {.m = c.m,
                    .n = c.n,
                    .k = c.k,
                    .x = x.data(),
                    .x_scale = x_scale.data(),
                    .w = w.data(),
                    .w_scale = w_scale.data(),
                    .bias = c.bias ? bias.data() : nullptr,
                    .num_kept = c.kept,
                    .kept_x = kept_x.data(),
                    .kept_w = kept_w.data(),
                    .y = expected.data(),
                    .plan = c.plan,
                    .sm80 = c.sm80};
  Ok(w8a8::Reference(p));
  // |error| <= u |y| + 4 sqrt(terms) 2^-23 S, u = 2^-8: S bounds the terms of the float part.
  std::vector<double> reference, tolerance;
  for (int64_t m = 0; m < c.m; ++m) {
    for (int64_t n = 0; n < c.n; ++n) {
      const double y = Bf16ToFloat(expected[static_cast<size_t>(m * c.n + n)]);
      double size = std::abs(y) + (c.bias ? std::abs(bias[static_cast<size_t>(n)]) : 0);
      for (int64_t i = 0; i < c.kept; ++i) {
        size += 2 * std::abs(double{Bf16ToFloat(kept_x[static_cast<size_t>(m * c.kept + i)])} *
                             Bf16ToFloat(kept_w[static_cast<size_t>(n * c.kept + i)]));
      }
      reference.push_back(y);
      tolerance.push_back(0x1p-7 * std::abs(y) +
                          4 * std::sqrt(static_cast<double>(c.kept + 3)) * 0x1p-23 * size);
    }
  }
  if (flip == 1) w.back() = static_cast<int8_t>(w.back() == 127 ? -127 : 127);
  if (flip == 2) kept_w.back() = FloatToBf16(Bf16ToFloat(kept_w.back()) + 100);
  if (flip == 3) w_scale.back() *= 1.1f;
  const Array<int8_t> d_x(x), d_w(w);
  const Array<float> d_x_scale(x_scale), d_w_scale(w_scale), d_bias(bias);
  const Array<uint16_t> d_kept_x(kept_x), d_kept_w(kept_w);
  p.x = d_x.data();
  p.w = d_w.data();
  p.x_scale = d_x_scale.data();
  p.w_scale = d_w_scale.data();
  if (c.bias) p.bias = d_bias.data();
  p.kept_x = d_kept_x.data();
  p.kept_w = d_kept_w.data();
  for (const cuda::pingpong::Plan& tiles : c.tiles) {
    const Array<uint16_t> y(c.m * c.n);
    p.y = y.data();
    p.tiles = tiles;
    Ok(w8a8::Run(p, device, TheStream()));
    std::vector<float> actual;
    for (const uint16_t v : y.Read()) actual.push_back(Bf16ToFloat(v));
    report.Compare(absl::StrCat("M=", c.m, " N=", c.n, " K=", c.k, " r=", c.kept, " tile=", tiles.tile_m, "x",
                                tiles.tile_n),
                   actual, reference, tolerance);
  }
}

TEST_CASE("W8A8 on Hopper holds its bound at every edge of its tiles", "[gpu][hopper]") {
  if (!cuda::IsHopper()) return;
  CheckReport report;
  for (const int64_t m : {1, 7, 63, 64, 65, 127, 128, 129, 300})
    Check({m, 264, 144, 64, true, false, kTiles}, 0, report);
  for (const int64_t n : {8, 120, 128, 136, 248, 256, 520})
    Check({70, n, 128, 0, false, false, kTiles}, 0, report);
  for (const int64_t k : {16, 112, 128, 144, 512, 656})
    Check({65, 128, k, 128, true, false, kTiles}, 0, report);
  Check({130, 256, 4096, 0, false, true, kTiles}, 0, report);
  // Several tiles a block, and more kept columns than a ring takes at once.
  Check({1000, 2560, 272, 64, true, false, kTiles}, 0, report);
  Check({1408, 1544, 144, 896, true, false, kTiles}, 0, report);
  // The most that a ring of 6, 8 or 13 stages takes beside the last codes, and one stage more.
  for (const int64_t kept : {320, 384, 448, 512, 768, 832})
    Check({200, 264, 144, kept, true, false, kTiles}, 0, report);
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("W8A8 of few rows holds its bound", "[gpu]") {
  CheckReport report;
  for (const int64_t m : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64}) {
    for (const int64_t n : {8, 16, 24, 264}) {
      for (const int64_t k : {16, 128, 144, 2064}) {
        for (const bool sm80 : {false, true}) {
          Check({m, n, k, m % 2 * 64, m % 3 == 0, false, kChosen, {}, sm80}, 0, report);
        }
      }
    }
  }
  for (const int groups : {1, 2}) {
    for (const int splits : {1, 2, 4}) {
      const cuda::few::Plan plan = {.groups = groups, .splits = splits, .stages = 2 + splits};
      for (const int64_t m : {5, 16, 30, 64}) {
        Check({m, 520, 1168, m % 4 * 64, true, false, kChosen, plan}, 0, report);
      }
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
  for (const bool sm80 : {false, true}) {
    CheckReport canary;
    Check({16, 64, 48, 64, true, false, kChosen, {}, sm80}, 1, canary);
    CHECK(canary.worst > 1);
  }
}

TEST_CASE("W8A8 on Hopper: one wrong code, kept column or scale is found", "[gpu][hopper][canary]") {
  if (!cuda::IsHopper()) return;
  for (const int flip : {1, 2, 3}) {
    CheckReport report;
    Check({129, 264, 32, 64, true}, flip, report);
    CHECK(report.num_values > 0);
    CHECK(report.worst > 1);
  }
}

TEST_CASE("W8A8 on Hopper gives the same bits a hundred times", "[gpu][hopper]") {
  if (!cuda::IsHopper()) return;
  const cuda::DeviceInfo device = *cuda::QueryDevice();
  const int64_t m = 2001, n = 2600, k = 512, r = 64;  // several tiles a block
  const Array<int8_t> x(RandomCodes(m * k, -127, 127, 1)), w(RandomCodes(n * k, -127, 127, 2));
  const Array<float> x_scale(RandomFloats(m, 3)), w_scale(RandomFloats(n, 4));
  const Array<uint16_t> kept_x(RandomBf16(m * r, 5)), kept_w(RandomBf16(n * r, 6)), y(m * n);
  for (const cuda::pingpong::Plan& tiles : kTiles) {
    std::vector<uint16_t> first;
    for (int i = 0; i < 100; ++i) {
      Ok(w8a8::Run({.m = m,
                    .n = n,
                    .k = k,
                    .x = x.data(),
                    .x_scale = x_scale.data(),
                    .w = w.data(),
                    .w_scale = w_scale.data(),
                    .num_kept = r,
                    .kept_x = kept_x.data(),
                    .kept_w = kept_w.data(),
                    .y = y.data(),
                    .tiles = tiles},
                   device, TheStream()));
      const std::vector<uint16_t> bits = y.Read();
      if (i == 0) first = bits;
      REQUIRE(bits == first);
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
