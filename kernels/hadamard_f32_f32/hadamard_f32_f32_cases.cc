#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/hadamard.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels::hadamard_f32_f32 {
namespace {

struct Case {
  int64_t m, n;
  std::vector<int64_t> factors;
  std::string Name() const { return absl::StrCat("M=", m, " N=", n, " H=", absl::StrJoin(factors, "x")); }
};

// Every radix of the power of two, tables with columns that fill no vector, and several blocks a row.
std::vector<Case> Cases() {
  std::vector<Case> cases = {
      {1, 1, {1}},          {3, 9, {1}},           {2, 40, {8}},          {5, 20, {20, 1}},
      {3, 60, {12, 1}},     {2, 576, {12, 12, 4}}, {3, 80, {20, 4}},      {1, 1296, {12, 12, 1}},
      {2, 1152, {36, 16}},  {7, 1536, {12, 128}},  {1, 896, {28, 32}},    {1, 5504, {172, 16}},
      {2, 3072, {12, 256}}, {1, 11008, {256}},     {1, 1232, {28, 44, 1}}};
  for (int64_t power = 2; power <= 16384; power *= 2) cases.push_back({power < 4096 ? 3 : 1, power, {power}});
  return cases;
}

std::vector<float> Scales(int64_t n, const std::vector<int64_t>& factors) {
  double block = 1;
  for (const int64_t f : factors) block *= static_cast<double>(f);
  std::vector<float> scale = RandomFloats(n, 5);
  for (float& s : scale) s = std::copysign(static_cast<float>(1 / std::sqrt(block)), s);
  return scale;
}

// A bound a value: the rounding of all stages, each of at most the block's absolute sum.
std::vector<double> Tolerances(const Case& c, const std::vector<float>& x, const std::vector<float>& scale) {
  int64_t block = 1, stages = 2;
  for (const int64_t f : c.factors) {
    block *= f;
    stages += f;
  }
  stages += static_cast<int64_t>(std::log2(static_cast<double>(c.factors.back()))) - c.factors.back();
  std::vector<double> tolerance(x.size());
  for (size_t at = 0; at < x.size(); at += static_cast<size_t>(block)) {
    double sum = 0;
    for (size_t i = at; i < at + static_cast<size_t>(block); ++i) {
      sum += std::fabs(x[i] * scale[i % static_cast<size_t>(c.n)]);
    }
    for (size_t i = at; i < at + static_cast<size_t>(block); ++i) {
      tolerance[i] = static_cast<double>(stages) * 0x1p-24 * sum;
    }
  }
  return tolerance;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  for (const Case& c : Cases()) {
    std::vector<float> x = RandomFloats(c.m * c.n, 1), scale = Scales(c.n, c.factors), expected = x;
    const std::vector<double> tolerance = Tolerances(c, x, scale);
    Params p = {.m = c.m, .n = c.n, .factors = c.factors, .scale = scale.data(), .x = expected.data()};
    if (!Reference(p).ok()) return {};
    if (fault == Fault::kOneElement) scale[static_cast<size_t>(c.n / 2)] *= -1;
    p.x = x.data();
    if (!Run(p, pool).ok()) return {};
    report.Compare(c.Name(), x, std::vector<double>(expected.begin(), expected.end()), tolerance);
  }
  return report;
}

void Benchmark(Bench& bench) {
  const std::vector<Case> cases = {{1, 1536, {12, 128}},   {8, 1536, {12, 128}}, {512, 1536, {12, 128}},
                                   {512, 2048, {2048}},    {4608, 64, {64}},     {512, 576, {12, 12, 4}},
                                   {64, 14336, {28, 512}}, {64, 8192, {8192}},   {64, 4864, {76, 64}},
                                   {64, 11008, {172, 64}}, {64, 11008, {256}}};
  for (const Case& c : cases) {
    std::vector<float> x = RandomFloats(c.m * c.n, 1);
    const std::vector<float> scale = Scales(c.n, c.factors);
    const Params p = {.m = c.m, .n = c.n, .factors = c.factors, .scale = scale.data(), .x = x.data()};
    double stages = std::log2(static_cast<double>(c.factors.back()));
    for (size_t i = 0; i + 1 < c.factors.size(); ++i) {
      const auto order = static_cast<double>(c.factors[i]);
      stages += c.factors[i] == 12 ? 52.0 / 12 : IsPairedHadamard(c.factors[i]) ? order / 2 : order - 1;
    }
    const double count = static_cast<double>(c.m * c.n);
    bench.Time(c.Name(), stages * count, 8 * count, [&] { (void)Run(p, bench.pool()); });
  }
}

}  // namespace spikefold::kernels::hadamard_f32_f32
