#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernel_check.h"
#include "kernels/trellis_s8_f32/trellis_s8_f32.h"

namespace spikefold::kernels::trellis_s8_f32 {
namespace {

// Levels of any kind: the kernel takes them as they are.
std::vector<float> Levels() {
  std::vector<float> levels = RandomFloats(kStates, 3);
  for (float& v : levels) v = std::nearbyint(37.0f * v);
  return levels;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

// Every level takes the same path, so states are compared as they are.
CheckReport Check(ThreadPool&, Fault fault) {
  CheckReport report;
  const std::vector<float> levels = Levels();
  for (const int bits : {2, 3, 4, 5, 6}) {
    for (const int64_t n : {1, 2, 3, 17}) {
      std::vector<float> target = RandomFloats(n, 7), scale(static_cast<size_t>(n));
      for (size_t i = 0; i < scale.size(); ++i) scale[i] = 0.02f + 0.003f * static_cast<float>(i);
      std::vector<uint16_t> expected(static_cast<size_t>(n)), actual(expected);
      Scratch scratch;
      Params p{.bits = bits, .n = n, .levels = levels.data(), .target = target.data(), .scale = scale.data()};
      p.states = expected.data();
      if (!Reference(p, scratch).ok()) return {};
      if (fault == Fault::kOneElement) target[0] += 1.0f;
      p.states = actual.data();
      if (!Run(p, scratch).ok()) return {};
      report.CompareExact(absl::StrCat("bits=", bits, " n=", n),
                          std::vector<int32_t>(actual.begin(), actual.end()),
                          std::vector<int32_t>(expected.begin(), expected.end()));
    }
  }
  return report;
}

void Benchmark(Bench& bench) {
  const std::vector<float> levels = Levels(), target = RandomFloats(kMaxRows, 7);
  const std::vector<float> scale(kMaxRows, 0.03f);
  std::vector<uint16_t> states(kMaxRows);
  Scratch scratch;
  for (const int bits : {2, 3, 4, 5, 6}) {
    const Params p{.bits = bits,
                   .n = kMaxRows,
                   .levels = levels.data(),
                   .target = target.data(),
                   .scale = scale.data(),
                   .states = states.data()};
    bench.Time(absl::StrCat("bits=", bits, " n=256 (one thread)"), 4.0 * kStates * kMaxRows, 4.0 * kMaxRows,
               [&] { (void)Run(p, scratch); });
  }
}

}  // namespace spikefold::kernels::trellis_s8_f32
