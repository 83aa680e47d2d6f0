#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernel_check.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {
namespace {

struct Shape {
  int64_t m, n, k;
  bool bias;
};

// Odd sizes, sizes around the tiles (6 and 12 rows, 16 and 32 columns) and the K blocks (768), and SmolLM2's.
constexpr Shape kChecked[] = {
    {1, 1, 1, false},     {1, 31, 7, true},      {2, 33, 64, false},    {3, 32, 100, true},
    {4, 65, 769, false},  {5, 17, 33, true},     {6, 96, 768, false},   {7, 64, 1537, true},
    {11, 15, 256, false}, {12, 64, 128, false},  {13, 47, 31, true},    {25, 100, 65, false},
    {49, 40, 96, true},   {97, 576, 576, false}, {2, 192, 16384, true},
};

std::string Name(const Shape& s) { return absl::StrCat("M=", s.m, " N=", s.n, " K=", s.k); }

struct Operands {
  explicit Operands(const Shape& s, uint64_t seed)
      : x(RandomFloats(s.m * s.k, seed)), bias(RandomFloats(s.n, seed + 1)) {
    const std::vector<float> plain = RandomFloats(s.n * s.k, seed + 2);
    w.resize(static_cast<size_t>(PackedElements(s.n, s.k)));
    Pack(plain.data(), s.n, s.k, w.data());
    y.assign(static_cast<size_t>(s.m * s.n), std::nanf(""));
    params = {.m = s.m,
              .n = s.n,
              .k = s.k,
              .x = x.data(),
              .x_stride = s.k,
              .w = w.data(),
              .bias = s.bias ? bias.data() : nullptr,
              .y = y.data(),
              .y_stride = s.n};
  }
  std::vector<float> x, bias, w, y;
  Params params;
};

// The data sheet's bound, and half an ulp for the reference's own rounding.
std::vector<double> Tolerances(const Params& p) {
  const int64_t blocks = p.k / kSumBlock;
  const double terms = static_cast<double>(std::min(p.k, kSumBlock)) + static_cast<double>(blocks) + 3;
  std::vector<double> tolerance;
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      double sum = p.bias != nullptr ? std::fabs(p.bias[n]) : 0;
      for (int64_t k = 0; k < p.k; ++k) {
        sum += std::fabs(double{p.x[m * p.x_stride + k]} * p.w[(n / kPanel * p.k + k) * kPanel + n % kPanel]);
      }
      tolerance.push_back(terms * 0x1p-24 * sum);
    }
  }
  return tolerance;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  for (const Shape& shape : kChecked) {
    Operands operands(shape, static_cast<uint64_t>(shape.m * 1000 + shape.n));
    Params params = operands.params;
    std::vector<float> expected(operands.y.size());
    params.y = expected.data();
    if (!Reference(params).ok()) return {};
    if (fault == Fault::kOneElement) operands.w[0] += 0.25f;
    if (!Run(operands.params, pool).ok()) return {};
    report.Compare(Name(shape), operands.y, std::vector<double>(expected.begin(), expected.end()),
                   Tolerances(params));
    // A row's result depends neither on the rows beside it nor on threads: prefill equals decode.
    ThreadPool alone(1);
    std::vector<float> rows(operands.y.size());
    for (int64_t m = 0; m < shape.m; ++m) {
      Params row = operands.params;
      row.m = 1;
      row.x += m * shape.k;
      row.y = rows.data() + m * shape.n;
      if (!Run(row, alone).ok()) return {};
    }
    report.CompareExact(absl::StrCat(Name(shape), " row by row"), rows, operands.y);
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (int64_t m : {1, 4, 32, 512}) {
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}}) {
      const Shape shape = {m, n, k, false};
      Operands operands(shape, 1);
      const double ops = 2.0 * static_cast<double>(m * n * k),
                   bytes = 4.0 * static_cast<double>(n * k + m * k + m * n);
      bench.Time(Name(shape), ops, bytes, [&] { (void)Run(operands.params, bench.pool()); });
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_f32
