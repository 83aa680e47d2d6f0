// What the conformance test does not say of the float kernels: layouts and refusals.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "kernels/argmax_s32_f32/argmax_s32_f32.h"
#include "kernels/attention_f32_f32/attention_f32_f32.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.h"
#include "kernels/kernel_check.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "kernels/norm_f32_f32/norm_f32_f32.h"
#include "kernels/rope_f32_f32/rope_f32_f32.h"

namespace spikefold::kernels {
namespace {

void CheckRefused(const absl::Status& status, absl::string_view message) {
  CHECK(status.code() == absl::StatusCode::kInvalidArgument);
  CHECK(std::string(status.message()) == std::string(message));
}

}  // namespace

TEST_CASE("The largest of a row of logits is the first of equals, and what is not finite is found") {
  for (const int64_t n : {1, 2, 15, 16, 17, 1023, 1024, 1025, 5000, 49152}) {
    INFO(n);
    std::vector<float> x = RandomFloats(n, static_cast<uint64_t>(n));
    for (float& v : x) v = -1 - std::abs(v);
    const auto largest = [&] { return std::max_element(x.begin(), x.end()) - x.begin(); };
    CHECK(argmax_s32_f32::Run(x.data(), n).top == largest());
    CHECK(argmax_s32_f32::Run(x.data(), n).odd == -1);
    for (const int64_t at : {n - 1, n / 2, int64_t{0}}) {  // each before the one that was set last
      x[static_cast<size_t>(at)] = at % 2 == 0 ? 0.0f : -0.0f;
      CHECK(argmax_s32_f32::Run(x.data(), n).top == largest());
    }
    for (const float odd : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      for (const int64_t at : {n - 1, n / 3}) {
        std::vector<float> broken = x;
        broken[static_cast<size_t>(at)] = odd;
        CHECK(argmax_s32_f32::Run(broken.data(), n).odd == at);
      }
    }
  }
}

TEST_CASE("A packed float weight gives its rows back, and its padding is zero", "[kernels][matmul]") {
  namespace f32 = matmul_f32_f32_f32;
  const int64_t n = 70, k = 21;
  const std::vector<float> w = RandomFloats(n * k, 1);
  std::vector<float> packed(static_cast<size_t>(f32::PackedElements(n, k)), std::nanf(""));
  // In parts that do not meet the panels, last part first.
  f32::PackRows(w.data() + 40 * k, 40, 30, n, k, packed.data());
  f32::PackRows(w.data(), 0, 7, n, k, packed.data());
  f32::PackRows(w.data() + 7 * k, 7, 33, n, k, packed.data());
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t i = 0; i < n; ++i) {
    f32::UnpackRow(packed.data(), n, k, i, row.data());
    CHECK(row == std::vector<float>(w.begin() + i * k, w.begin() + (i + 1) * k));
  }
  for (int64_t i = n; i < 96; ++i) {
    f32::UnpackRow(packed.data(), n, k, i, row.data());
    CHECK(row == std::vector<float>(static_cast<size_t>(k), 0.0f));
  }
}

TEST_CASE("Rows may lie further apart than they are long; nothing between them is touched",
          "[kernels][matmul]") {
  namespace f32 = matmul_f32_f32_f32;
  const int64_t m = 14, n = 35, k = 9, x_stride = 13, y_stride = 41;
  const std::vector<float> w = RandomFloats(n * k, 1), x = RandomFloats(m * x_stride, 2);
  std::vector<float> packed(static_cast<size_t>(f32::PackedElements(n, k)));
  f32::Pack(w.data(), n, k, packed.data());
  std::vector<float> y(static_cast<size_t>(m * y_stride), 7.0f), expected = y;
  f32::Params p = {.m = m,
                   .n = n,
                   .k = k,
                   .x = x.data(),
                   .x_stride = x_stride,
                   .w = packed.data(),
                   .y = y.data(),
                   .y_stride = y_stride};
  ThreadPool pool(2);
  REQUIRE(f32::Run(p, pool).ok());
  p.y = expected.data();
  REQUIRE(f32::Reference(p).ok());
  for (size_t i = 0; i < y.size(); ++i) CHECK(y[i] == Approx(expected[i]).margin(1e-5));
}

TEST_CASE("Float kernels refuse what makes no sense and say why", "[kernels]") {
  ThreadPool pool(1);
  float value = 0;
  CheckRefused(matmul_f32_f32_f32::Run({.m = 1, .n = 0, .k = 5}, pool),
               "matmul_f32_f32_f32: shape M=1 N=0 K=5 is empty; each must be at least 1");
  CheckRefused(
      matmul_f32_f32_f32::Run(
          {.m = 2, .n = 3, .k = 5, .x = &value, .x_stride = 4, .w = &value, .y = &value, .y_stride = 3},
          pool),
      "matmul_f32_f32_f32: x_stride=4 y_stride=3; allowed: at least K=5 and N=3");
  CheckRefused(attention_f32_f32::Run({.m = 1, .num_heads = 9, .num_kv_heads = 2, .head_dim = 64}, pool),
               "attention_f32_f32: num_heads=9 is not a multiple of num_kv_heads=2");
  CheckRefused(
      rope_f32_f32::Run({.m = 1, .num_heads = 1, .head_dim = 7}, pool),
      "rope_f32_f32: M=1 num_heads=1 head_dim=7; allowed: M and num_heads at least 1, head_dim even");
  CheckRefused(norm_f32_f32::Run({.m = 1, .k = 4}, pool),
               "norm_f32_f32: x, gain or y is null; set all three");
  CheckRefused(gatedmul_f32_f32::Run({.count = 0}, pool), "gatedmul_f32_f32: count=0; it must be at least 1");
  CheckRefused(kld_f64_f32_f32::Run({.m = 1, .n = 4}, pool),
               "kld_f64_f32_f32: p, q or out is null; set all three");
  CheckRefused(logsumexp_f64_f32::Run({.m = 0, .n = 4}, pool),
               "logsumexp_f64_f32: shape M=0 N=4 is empty; each must be at least 1");
}

TEST_CASE("A row of logits with a NaN or an infinity anywhere is reported, not scored", "[kernels][kld]") {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    for (const size_t at : {size_t{0}, size_t{100}, size_t{1029}}) {
      std::vector<float> p = RandomFloats(1030, 1), q = RandomFloats(1030, 2);
      REQUIRE(kld_f64_f32_f32::RunRow(p.data(), q.data(), 1030).finite);
      q[at] = bad;
      CHECK_FALSE(kld_f64_f32_f32::RunRow(p.data(), q.data(), 1030).finite);
      CHECK_FALSE(kld_f64_f32_f32::RunRow(q.data(), p.data(), 1030).finite);
      CHECK_FALSE(logsumexp_f64_f32::RunRow(q.data(), 1030).finite);
    }
  }
}

}  // namespace spikefold::kernels
