#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernel_check.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"

namespace spikefold::kernels::kld_f64_f32_f32 {
namespace {

// p spread like logits; q beside it: the same, shifted, or with noise from rounding errors to another model.
struct Case {
  float spread, noise, shift;
};
constexpr Case kCases[] = {{3, 0, 0},     {3, 0, 0.37f}, {3, 1e-5f, 0},  {3, 1e-3f, 0}, {3, 0.02f, 0},
                           {3, 0.3f, -5}, {3, 2, 0},     {10, 0.02f, 1}, {10, 1, 0},    {0.01f, 0.02f, 0},
                           {40, 0.1f, 0}, {40, 20, 0},   {1, 0.1f, 1e3f}};

struct Operands {
  Operands(const Case& c, int64_t rows, int64_t n)
      : p(RandomFloats(rows * n, 11)), q(RandomFloats(rows * n, 12)) {
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] = p[i] * c.spread + 12.25f;
      q[i] = p[i] + c.shift + q[i] * c.noise;
    }
  }
  std::vector<float> p, q;
};

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  constexpr int64_t kRows = 3;
  for (int64_t n : {1, 5, 333, 49152}) {
    for (const Case& c : kCases) {
      Operands a(c, kRows, n);
      std::vector<RowResult> expected(kRows), actual(kRows);
      Params params = {
          .m = kRows, .n = n, .p = a.p.data(), .q = a.q.data(), .stride = n, .out = expected.data()};
      if (!Reference(params).ok()) return {};
      if (fault == Fault::kOneElement) a.q[static_cast<size_t>(expected[0].top_p)] += 0.01f;
      params.out = actual.data();
      if (!Run(params, pool).ok()) return {};
      const std::string name =
          absl::StrCat("N=", n, " spread=", c.spread, " noise=", c.noise, " shift=", c.shift);
      for (size_t m = 0; m < kRows; ++m) {
        const RowResult &x = actual[m], &e = expected[m];
        report.Compare(name, {static_cast<float>(x.kld - e.kld)}, {0.0}, {1e-9 + 1e-6 * e.kld});
        report.Compare(absl::StrCat(name, " rare"), {static_cast<float>(x.kld_rare - e.kld_rare)}, {0.0},
                       {1e-9 + 1e-6 * (e.kld + std::fabs(e.kld_rare))});
        report.Compare(absl::StrCat(name, " lse"),
                       {static_cast<float>(x.lse_p - e.lse_p), static_cast<float>(x.lse_q - e.lse_q)},
                       {0.0, 0.0}, {2e-7, 2e-7});
        report.CompareExact(
            absl::StrCat(name, " top"),
            std::vector<int32_t>{static_cast<int32_t>(x.top_p), static_cast<int32_t>(x.top_q), x.finite},
            std::vector<int32_t>{static_cast<int32_t>(e.top_p), static_cast<int32_t>(e.top_q), e.finite});
      }
    }
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (int64_t n : {49152, 262144}) {
    const Operands a(kCases[4], 64, n);
    std::vector<RowResult> out(64);
    const Params params = {.m = 64, .n = n, .p = a.p.data(), .q = a.q.data(), .stride = n, .out = out.data()};
    bench.Time(absl::StrCat("M=64 N=", n), 90.0 * 64 * static_cast<double>(n),
               8.0 * 64 * static_cast<double>(n), [&] { (void)Run(params, bench.pool()); });
  }
}

}  // namespace spikefold::kernels::kld_f64_f32_f32
