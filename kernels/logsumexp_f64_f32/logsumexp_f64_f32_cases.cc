#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernel_check.h"
#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32.h"

namespace spikefold::kernels::logsumexp_f64_f32 {
namespace {

std::vector<float> Logits(int64_t count, float spread, uint64_t seed) {
  std::vector<float> x = RandomFloats(count, seed);
  for (float& v : x) v = v * spread - 7.5f;
  return x;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  constexpr int64_t kRows = 3;
  for (int64_t n : {1, 2, 17, 1023, 1024, 1025, 49152}) {
    for (float spread : {0.0f, 0.01f, 3.0f, 50.0f}) {
      std::vector<float> x = Logits(kRows * n, spread, 5);
      std::vector<RowResult> expected(kRows), actual(kRows);
      Params p = {.m = kRows, .n = n, .x = x.data(), .x_stride = n, .out = expected.data()};
      if (!Reference(p).ok()) return {};
      if (fault == Fault::kOneElement) x[static_cast<size_t>(expected[0].top)] += 0.5f;
      p.out = actual.data();
      if (!Run(p, pool).ok()) return {};
      const std::string name = absl::StrCat("N=", n, " spread=", spread);
      for (size_t m = 0; m < kRows; ++m) {
        report.Compare(name, {static_cast<float>(actual[m].lse - expected[m].lse)}, {0.0}, {2e-7});
        report.CompareExact(name, std::vector<int32_t>{static_cast<int32_t>(actual[m].top), actual[m].finite},
                            std::vector<int32_t>{static_cast<int32_t>(expected[m].top), expected[m].finite});
      }
    }
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (int64_t n : {49152, 262144}) {
    const std::vector<float> x = Logits(64 * n, 3, 5);
    std::vector<RowResult> out(64);
    const Params p = {.m = 64, .n = n, .x = x.data(), .x_stride = n, .out = out.data()};
    bench.Time(absl::StrCat("M=64 N=", n), 15.0 * 64 * static_cast<double>(n),
               4.0 * 64 * static_cast<double>(n), [&] { (void)Run(p, bench.pool()); });
  }
}

}  // namespace spikefold::kernels::logsumexp_f64_f32
