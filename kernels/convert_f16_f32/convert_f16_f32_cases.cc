#include <cmath>
#include <limits>
#include <vector>

#include "kernels/convert_f16_f32/convert_f16_f32.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels::convert_f16_f32 {

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool&, Fault fault) {
  CheckReport report;
  std::vector<float> x = RandomFloats(1003, 1);
  for (size_t i = 0; i < x.size(); i += 3) x[i] *= 1e-6f;  // subnormal halves
  const float edges[] = {0.0f,
                         -0.0f,
                         65504.0f,
                         65519.9f,
                         65520.0f,
                         -1e30f,
                         std::numeric_limits<float>::infinity(),
                         0x1p-24f,
                         0x1p-25f,
                         0x1.8p-25f,
                         1 + 0x1p-11f,
                         1 + 0x1.8p-10f};
  x.insert(x.end(), std::begin(edges), std::end(edges));
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<uint16_t> want(x.size()), got(x.size());
  NarrowPlain(x.data(), n, want.data());
  if (fault == Fault::kOneElement) x[17] += 0.01f;
  Narrow(x.data(), n, got.data());
  report.CompareExact("narrow", std::vector<int32_t>(got.begin(), got.end()),
                      std::vector<int32_t>(want.begin(), want.end()));
  std::vector<uint16_t> every(65536 - 2 * 1024);  // all finite halves
  for (size_t i = 0; i < every.size(); ++i) {
    every[i] = static_cast<uint16_t>(i < every.size() / 2 ? i : i + 1024);
  }
  std::vector<float> wide(every.size()), plain(every.size());
  Widen(every.data(), static_cast<int64_t>(every.size()), wide.data());
  WidenPlain(every.data(), static_cast<int64_t>(every.size()), plain.data());
  report.CompareExact("widen", wide, plain);
  return report;
}

void Benchmark(Bench& bench) {
  const std::vector<float> x = RandomFloats(512 * 384, 1);
  std::vector<uint16_t> y(x.size());
  bench.Time("512 x 384", static_cast<double>(x.size()), 6.0 * static_cast<double>(x.size()),
             [&] { Narrow(x.data(), static_cast<int64_t>(x.size()), y.data()); });
}

}  // namespace spikefold::kernels::convert_f16_f32
