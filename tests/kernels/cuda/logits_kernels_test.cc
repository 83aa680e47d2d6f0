// What is found out from logits where they lie, against the CPU.
#include <cmath>

#include "kernels/argmax_s32_f32/argmax_s32_f32_cuda.h"
#include "kernels/kernel_check.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32_cuda.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;

TEST_CASE("The largest logits of several rows are those that the CPU finds", "[gpu]") {
  for (const int64_t n : {1, 31, 4096, 128257}) {
    const int64_t m = 9;
    std::vector<float> x = RandomFloats(m * n, 3);
    for (float& v : x) v = -1 - std::abs(v);
    const auto at = [&](int64_t row, int64_t i) -> float& { return x[static_cast<size_t>(row * n + i)]; };
    at(1, n - 1) = at(1, n / 2) = 0.0f;
    at(2, n - 1) = at(2, n / 2) = -0.0f;
    at(2, n - 1) = 0.0f;  // equal to the one before
    at(3, n / 3) = std::nanf("");
    at(4, n / 2) = -HUGE_VALF;
    at(4, n - 1) = std::nanf("");
    at(5, n - 1) = HUGE_VALF;
    for (int64_t i = 0; i < n; ++i) at(6, i) = HUGE_VALF;
    const Array<float> device(x);
    const size_t parts = static_cast<size_t>(argmax_s32_f32::NumParts(n));
    const Array<argmax_s32_f32::Found> found(m * static_cast<int64_t>(parts));
    Ok(argmax_s32_f32::RunCuda({.m = m, .n = n, .x = device.data(), .found = found.data()}, TheStream()));
    const std::vector<argmax_s32_f32::Found> got = found.Read();
    for (int64_t row = 0; row < m; ++row) {
      INFO("row " << row << " of " << n);
      const auto expected = argmax_s32_f32::Run(&at(row, 0), n);
      const auto actual = argmax_s32_f32::ResultOf({&got[static_cast<size_t>(row) * parts], parts});
      CHECK(actual.odd == expected.odd);
      if (expected.odd < 0) CHECK(actual.top == expected.top);
    }
  }
}

TEST_CASE("Divergences of rows of logits hold their bounds, and rows that are not finite have none",
          "[gpu]") {
  using kld_f64_f32_f32::RowResult, kld_f64_f32_f32::TargetRow;
  // p spread like logits, q beside it: the same, noise from rounding to another model's, a shift.
  const struct {
    float spread, noise, shift;
  } rows[] = {{3, 0, 0},   {3, 0, 0.37f}, {3, 1e-5f, 0},   {3, 0.02f, 0},     {3, 2, -5},
              {40, 20, 0}, {10, 1, 0},    {1, 0.1f, 1e3f}, {0.01f, 0.02f, 0}, {3, 1, 0},
              {3, 1, 0},   {3, 1, 0},     {3, 1, 0}};
  const int64_t m = std::size(rows);
  constexpr int64_t kNanInP = 9, kInfinityInQ = 10, kTies = 11;
  for (const int64_t n : {1, 5, 333, 49152, 128257}) {
    std::vector<float> p = RandomFloats(m * n, 11), q = RandomFloats(m * n, 12);
    std::vector<int32_t> targets;
    const auto at = [&](std::vector<float>& x, int64_t row, int64_t i) -> float& {
      return x[static_cast<size_t>(row * n + i)];
    };
    for (int64_t row = 0; row < m; ++row) {
      const auto& r = rows[row];
      for (int64_t i = 0; i < n; ++i) {
        at(p, row, i) = at(p, row, i) * r.spread + 12.25f;
        at(q, row, i) = at(p, row, i) + r.shift + at(q, row, i) * r.noise;
      }
      targets.push_back(static_cast<int32_t>(row == 0 ? n - 1 : (row * 7919) % n));
    }
    at(p, kNanInP, n / 2) = std::nanf("");
    at(q, kInfinityInQ, n - 1) = -HUGE_VALF;
    at(p, kTies, n / 3) = at(p, kTies, n - 1) = 1000;
    at(q, kTies, 0) = at(q, kTies, n / 2) = 1000;
    std::vector<RowResult> expected(static_cast<size_t>(m));
    REQUIRE(kld_f64_f32_f32::Reference(
                {.m = m, .n = n, .p = p.data(), .q = q.data(), .stride = n, .out = expected.data()})
                .ok());
    const Array<float> d_p(p), d_q(q);
    const Array<int32_t> d_targets(targets);
    for (const bool alone : {false, true}) {
      const Array<TargetRow> out(m);
      Ok(kld_f64_f32_f32::RunCuda({.m = m,
                                   .n = n,
                                   .p = d_p.data(),
                                   .q = alone ? d_p.data() : d_q.data(),
                                   .target = d_targets.data(),
                                   .out = out.data()},
                                  TheStream()));
      const std::vector<TargetRow> got = out.Read();
      for (int64_t row = 0; row < m; ++row) {
        INFO("row " << row << " of " << n << (alone ? ", alone" : ""));
        const RowResult &x = got[static_cast<size_t>(row)].row, &e = expected[static_cast<size_t>(row)];
        const bool finite = row != kNanInP && (alone || row != kInfinityInQ);
        CHECK(x.finite == finite);
        if (!finite) {
          CHECK(x.kld == 0);
          continue;
        }
        CHECK(got[static_cast<size_t>(row)].p == at(p, row, targets[static_cast<size_t>(row)]));
        if (alone) {
          CHECK(x.kld == 0);
          CHECK(x.kld_rare == 0);
          CHECK(x.lse_q == x.lse_p);
          CHECK(x.top_q == x.top_p);
          continue;
        }
        CHECK(got[static_cast<size_t>(row)].q == at(q, row, targets[static_cast<size_t>(row)]));
        CHECK(std::fabs(x.lse_p - e.lse_p) <= 2e-7);
        CHECK(std::fabs(x.lse_q - e.lse_q) <= 2e-7);
        CHECK(std::fabs(x.kld - e.kld) <= 1e-9 + 1e-6 * e.kld);
        CHECK(std::fabs(x.kld_rare - e.kld_rare) <= 1e-9 + 1e-6 * (e.kld + std::fabs(e.kld_rare)));
        CHECK(x.top_p == e.top_p);
        CHECK(x.top_q == e.top_q);
      }
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
