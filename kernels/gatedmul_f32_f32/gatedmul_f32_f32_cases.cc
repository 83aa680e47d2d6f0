#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels::gatedmul_f32_f32 {
namespace {

std::string Name(Activation activation, int64_t count) {
  return absl::StrCat(activation == Activation::kSilu ? "silu" : "gelu-tanh", " count=", count);
}

// Gates of every size: dense around the bends, thin in the tails, and the values at which something changes.
std::vector<float> Gates(int64_t count) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<float> near(-10, 10), far(-120, 120), exponent(-140, 10);
  std::vector<float> gates = {0.0f,    -0.0f, 1e-40f, -1e-40f, 88.7f, -87.3f, -88.8f,
                              -103.0f, 12.0f, -12.0f, -5.5f,   1e20f, -1e20f};
  while (static_cast<int64_t>(gates.size()) < count) {
    gates.push_back(near(random));
    gates.push_back(far(random));
    gates.push_back(std::exp2(exponent(random)) * (gates.size() % 4 < 2 ? 1.0f : -1.0f));
  }
  gates.resize(static_cast<size_t>(count));
  return gates;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  for (Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    for (int64_t count : {1, 15, 33, 100003}) {
      std::vector<float> gate = Gates(count), up = RandomFloats(count, 3), expected(gate.size());
      gate.back() = 0.7f;
      Params p = {.count = count,
                  .activation = activation,
                  .gate = gate.data(),
                  .up = up.data(),
                  .y = expected.data()};
      if (!Reference(p).ok()) return {};
      std::vector<double> tolerance;
      for (size_t i = 0; i < expected.size(); ++i) {
        const double ulp = std::nextafter(std::fabs(expected[i]), INFINITY) - std::fabs(expected[i]);
        tolerance.push_back(4 * ulp + 0x1p-149 * (1 + std::fabs(up[i])));
      }
      if (fault == Fault::kOneElement) gate.back() *= 1 + 0x1p-20f;
      p.y = gate.data();  // in place
      if (!Run(p, pool).ok()) return {};
      report.Compare(Name(activation, count), gate, std::vector<double>(expected.begin(), expected.end()),
                     tolerance);
    }
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    for (int64_t count : {1536, 512 * 1536}) {
      const std::vector<float> gate = RandomFloats(count, 1), up = RandomFloats(count, 2);
      std::vector<float> y(gate.size());
      const Params p = {
          .count = count, .activation = activation, .gate = gate.data(), .up = up.data(), .y = y.data()};
      bench.Time(Name(activation, count), 20.0 * static_cast<double>(count),
                 12.0 * static_cast<double>(count), [&] { (void)Run(p, bench.pool()); });
    }
  }
}

}  // namespace spikefold::kernels::gatedmul_f32_f32
