#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/attention_f32_f32/attention_f32_f32_isa.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

struct Shape {
  int64_t m, first, num_heads, num_kv_heads, head_dim, window, num_sinks;
};

// Around the key blocks (64), spans (256), tiles (6 and 12 rows) and tasks (96 rows); groups 1 to 5; odd head
// dimensions; windows with and without sinks; many rows; one row on a cache of some and of many spans.
constexpr Shape kChecked[] = {
    {1, 0, 2, 1, 64, 0, 0},    {5, 0, 9, 3, 64, 0, 0},     {33, 0, 4, 4, 96, 0, 0},
    {130, 3, 6, 2, 64, 0, 0},  {1, 700, 3, 1, 128, 0, 0},  {2, 255, 5, 1, 80, 0, 0},
    {70, 300, 2, 1, 64, 0, 0}, {100, 0, 3, 3, 8, 16, 0},   {3, 600, 4, 2, 40, 100, 0},
    {9, 513, 4, 2, 64, 70, 4}, {40, 60, 2, 2, 256, 65, 1}, {7, 10, 3, 3, 5, 0, 2},
    {2, 3300, 4, 2, 16, 0, 0}, {1, 3200, 2, 1, 8, 900, 3},
};

std::string Name(const Shape& s) {
  return absl::StrCat("M=", s.m, " first=", s.first, " H=", s.num_heads, "/", s.num_kv_heads,
                      " E=", s.head_dim,
                      s.window > 0 ? absl::StrCat(" window=", s.window, "+", s.num_sinks) : "");
}

struct Operands {
  explicit Operands(const Shape& s, uint64_t seed) : q(RandomFloats(s.m * s.num_heads * s.head_dim, seed)) {
    const int64_t used = (s.first + s.m) * s.num_kv_heads * s.head_dim;
    k = RandomFloats(used, seed + 1);
    v = RandomFloats(used, seed + 2);
    // What lies behind the last position is not a number.
    k.resize(k.size() + static_cast<size_t>(70 * s.num_kv_heads * s.head_dim), std::nanf(""));
    v.resize(k.size(), std::nanf(""));
    o.assign(q.size(), std::nanf(""));
    mass.assign(static_cast<size_t>(s.num_heads * (s.first + s.m)), 0.0);
    params = {.m = s.m,
              .num_heads = s.num_heads,
              .num_kv_heads = s.num_kv_heads,
              .head_dim = s.head_dim,
              .q = q.data(),
              .k = k.data(),
              .v = v.data(),
              .first = s.first,
              .scale = 1 / std::sqrt(static_cast<float>(s.head_dim)),
              .window = s.window,
              .num_sinks = s.num_sinks,
              .pin_sinks = s.num_sinks > 0,
              .o = o.data()};
  }
  std::vector<float> q, k, v, o;
  std::vector<double> mass;
  Params params;
};

// Largest relative error of a weight: twice the largest error of a score (itself and the maximum's), and exp.
double WeightError(const Params& p, int64_t m, int64_t head) {
  const int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  double largest = 0;
  for (int64_t j = 0; j <= p.first + m; ++j) {
    double sum = 0;
    for (int64_t i = 0; i < p.head_dim; ++i) {
      sum += std::fabs(double{p.q[(m * p.num_heads + head) * p.head_dim + i]} * p.scale *
                       p.k[(j * p.num_kv_heads + kv_head) * p.head_dim + i]);
    }
    largest = std::max(largest, sum);
  }
  return (2 * static_cast<double>(p.head_dim + 3) * largest + 4) * 0x1p-24;
}

// |error| <= (weight error + roundings of the two sums) * largest |v| seen.
std::vector<double> Tolerances(const Params& p) {
  std::vector<double> tolerance;
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t head = 0; head < p.num_heads; ++head) {
      const int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
      const int64_t keys = p.window > 0 ? std::min(p.window + p.num_sinks, p.first + m + 1) : p.first + m + 1;
      const double relative = 2 * WeightError(p, m, head) + (2 * static_cast<double>(keys) + 16) * 0x1p-24;
      for (int64_t i = 0; i < p.head_dim; ++i) {
        double largest = 0;
        for (int64_t j = 0; j <= p.first + m; ++j) {
          largest =
              std::max(largest, std::fabs(double{p.v[(j * p.num_kv_heads + kv_head) * p.head_dim + i]}));
        }
        tolerance.push_back(relative * largest);
      }
    }
  }
  return tolerance;
}

// Every row as a call of its own.
absl::Status RowByRow(Params p, float* o) {
  ThreadPool alone(1);
  const int64_t width = p.num_heads * p.head_dim, m = p.m;
  p.m = 1;
  p.o = o;
  for (int64_t i = 0; i < m; ++i, ++p.first, p.q += width, p.o += width) {
    if (absl::Status status = Run(p, alone); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  for (const Shape& shape : kChecked) {
    Operands a(shape, static_cast<uint64_t>(shape.m * 1000 + shape.first));
    std::vector<float> expected(a.o.size());
    std::vector<double> expected_mass(a.mass.size(), 0.0);
    Params reference = a.params;
    reference.o = expected.data();
    reference.column_mass = expected_mass.data();
    if (!Reference(reference).ok()) return {};
    if (fault == Fault::kOneElement)
      a.v[static_cast<size_t>(a.params.first * shape.num_kv_heads * shape.head_dim)] += 0.01f;
    if (!Run(a.params, pool).ok()) return {};
    report.Compare(Name(shape), a.o, std::vector<double>(expected.begin(), expected.end()),
                   Tolerances(a.params));

    std::vector<float> rows(a.o.size());
    if (!RowByRow(a.params, rows.data()).ok()) return {};
    report.CompareExact(absl::StrCat(Name(shape), " row by row"), rows, a.o);

    // With column_mass the outputs are the same, and the masses of a row add up to 1.
    Params with_mass = a.params;
    with_mass.o = rows.data();
    with_mass.column_mass = a.mass.data();
    if (!Run(with_mass, pool).ok()) return {};
    report.CompareExact(absl::StrCat(Name(shape), " with column mass"), rows, a.o);
    report.Compare(absl::StrCat(Name(shape), " column mass"),
                   std::vector<float>(a.mass.begin(), a.mass.end()), expected_mass,
                   std::vector<double>(a.mass.size(), 1e-5 * static_cast<double>(shape.m)));
  }
  return report;
}

void Benchmark(Bench& bench) {
  const Shape shapes[] = {{512, 0, 9, 3, 64, 0, 0},      {512, 0, 14, 2, 64, 0, 0},
                          {512, 1536, 32, 8, 128, 0, 0}, {1, 255, 9, 3, 64, 0, 0},
                          {1, 1023, 9, 3, 64, 0, 0},     {1, 8191, 9, 3, 64, 0, 0},
                          {1, 8191, 32, 32, 64, 0, 0},   {1, 4095, 32, 8, 128, 0, 0}};
  for (const Shape& s : shapes) {
    Operands a(s, 1);
    const double keys =
        static_cast<double>(s.m) * (static_cast<double>(s.first) + (static_cast<double>(s.m) + 1) / 2);
    const double ops = 4.0 * keys * static_cast<double>(s.num_heads * s.head_dim);
    const double bytes = 8.0 * static_cast<double>((s.first + s.m) * s.num_kv_heads * s.head_dim);
    bench.Time(Name(s), ops, bytes, [&] { (void)Run(a.params, bench.pool()); });
  }
}

}  // namespace spikefold::kernels::attention_f32_f32
