#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernel_check.h"
#include "kernels/norm_f32_f32/norm_f32_f32.h"

namespace spikefold::kernels::norm_f32_f32 {

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  const std::pair<int64_t, int64_t> shapes[] = {{1, 1},    {3, 7},    {2, 16},   {5, 33},
                                                {70, 576}, {4, 4095}, {1, 16384}};
  for (const auto& [m, k] : shapes) {
    std::vector<float> x = RandomFloats(m * k, 1), gain = RandomFloats(k, 2), expected(x.size());
    x.back() = 3e5f;  // a massive activation: its square is 1e14 times the others'
    Params p = {.m = m, .k = k, .x = x.data(), .gain = gain.data(), .eps = 1e-5f, .y = expected.data()};
    if (!Reference(p).ok()) return {};
    if (fault == Fault::kOneElement) gain[static_cast<size_t>(k - 1)] *= 1 + 0x1p-20f;
    std::vector<float> y = x;  // in place
    p.x = p.y = y.data();
    if (!Run(p, pool).ok()) return {};
    std::vector<double> tolerance;
    tolerance.reserve(expected.size());
    for (float e : expected) tolerance.push_back(std::fabs(e) * 4 * 0x1p-24 + 0x1p-149);
    report.Compare(absl::StrCat("M=", m, " K=", k), y, std::vector<double>(expected.begin(), expected.end()),
                   tolerance);
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (const auto& [m, k] : {std::pair<int64_t, int64_t>{1, 576}, {512, 576}, {512, 4096}}) {
    std::vector<float> x = RandomFloats(m * k, 1), gain = RandomFloats(k, 2), y(x.size());
    const Params p = {.m = m, .k = k, .x = x.data(), .gain = gain.data(), .y = y.data()};
    bench.Time(absl::StrCat("M=", m, " K=", k), 4.0 * static_cast<double>(m * k),
               8.0 * static_cast<double>(m * k), [&] { (void)Run(p, bench.pool()); });
  }
}

}  // namespace spikefold::kernels::norm_f32_f32
