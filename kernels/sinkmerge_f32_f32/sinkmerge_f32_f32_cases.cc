#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/attention_f32_f32/attention_f32_f32.h"
#include "kernels/kernel_check.h"
#include "kernels/sinkmerge_f32_f32/sinkmerge_f32_f32.h"

namespace spikefold::kernels::sinkmerge_f32_f32 {
namespace {

namespace attention = attention_f32_f32;

struct Shape {
  int64_t m, rest, num_sinks, num_heads, num_kv_heads, head_dim;  // `rest`: cached rows beside the sinks
};
constexpr Shape kChecked[] = {{1, 0, 1, 2, 1, 64},    {5, 70, 2, 9, 3, 64},  {100, 0, 4, 4, 4, 8},
                              {1, 900, 1, 4, 1, 256}, {33, 300, 3, 3, 3, 5}, {17, 64, 64, 6, 2, 80}};

// Sinks are scored as high as all other keys together, which is what makes them sinks.
struct Operands {
  explicit Operands(const Shape& s) : shape(s) {
    const int64_t positions = s.num_sinks + s.rest + s.m, width = s.num_kv_heads * s.head_dim;
    q = RandomFloats(s.m * s.num_heads * s.head_dim, static_cast<uint64_t>(s.m + 7 * s.rest));
    k = RandomFloats(positions * width, 2);
    v = RandomFloats(positions * width, 3);
    for (int64_t i = 0; i < s.num_sinks * width; ++i) k[static_cast<size_t>(i)] *= 3;
    o.assign(q.size(), 0.0f);
    lse.assign(static_cast<size_t>(s.m * s.num_heads), 0.0f);
  }
  float scale() const { return 1 / std::sqrt(static_cast<float>(shape.head_dim)); }
  // Attention over all rows, or over those behind the sinks.
  attention::Params Attention(bool sinks) {
    const int64_t skipped = sinks ? 0 : shape.num_sinks, width = shape.num_kv_heads * shape.head_dim;
    return {.m = shape.m,
            .num_heads = shape.num_heads,
            .num_kv_heads = shape.num_kv_heads,
            .head_dim = shape.head_dim,
            .q = q.data(),
            .k = k.data() + skipped * width,
            .v = v.data() + skipped * width,
            .first = shape.num_sinks + shape.rest - skipped,
            .scale = scale(),
            .o = o.data(),
            .lse = lse.data()};
  }
  Params Merge() {
    return {.m = shape.m,
            .num_heads = shape.num_heads,
            .num_kv_heads = shape.num_kv_heads,
            .head_dim = shape.head_dim,
            .q = q.data(),
            .num_sinks = shape.num_sinks,
            .sink_heads = shape.num_kv_heads,
            .k = k.data(),
            .v = v.data(),
            .scale = scale(),
            .lse = lse.data(),
            .o = o.data()};
  }
  const Shape& shape;
  std::vector<float> q, k, v, o, lse;
};

// Relative to the largest output, 1e-5 of it.
void Compare(CheckReport& report, const std::string& name, const std::vector<float>& actual,
             const std::vector<float>& expected) {
  double largest = 0;
  for (const float x : expected) largest = std::max(largest, std::fabs(double{x}));
  report.Compare(name, actual, std::vector<double>(expected.begin(), expected.end()),
                 std::vector<double>(expected.size(), 1e-5 * largest));
}

// Keys and values of a query head each, the same for all that share a KV head: must change nothing.
absl::Status RunByQueryHead(Params p, ThreadPool& pool) {
  const int64_t group = p.num_heads / p.num_kv_heads;
  std::vector<float> wide_k, wide_v;
  for (int64_t s = 0; s < p.num_sinks; ++s) {
    for (int64_t h = 0; h < p.num_heads; ++h) {
      const int64_t at = (s * p.num_kv_heads + h / group) * p.head_dim;
      wide_k.insert(wide_k.end(), p.k + at, p.k + at + p.head_dim);
      wide_v.insert(wide_v.end(), p.v + at, p.v + at + p.head_dim);
    }
  }
  p.sink_heads = p.num_heads;
  p.k = wide_k.data();
  p.v = wide_v.data();
  return Run(p, pool);
}

// A scalar sink is a key of that score whose value is 0: attention over a row more, by hand.
void CheckScalarSinks(CheckReport& report, ThreadPool& pool, Operands& a) {
  const Shape& s = a.shape;
  if (!attention::Run(a.Attention(false), pool).ok()) return;
  const std::vector<float> before = a.o, lse = a.lse, logit = RandomFloats(s.num_heads, 9);
  Params p = a.Merge();
  p.num_sinks = 0;
  p.logit = logit.data();
  if (!Run(p, pool).ok()) return;
  std::vector<float> expected(before.size());
  for (size_t row = 0; row < lse.size(); ++row) {
    const double b = double{logit[row % logit.size()]}, e = double{lse[row]};
    const double gate = std::exp(e) / (std::exp(e) + std::exp(b));
    for (size_t i = 0; i < static_cast<size_t>(s.head_dim); ++i) {
      const size_t at = row * static_cast<size_t>(s.head_dim) + i;
      expected[at] = static_cast<float>(gate * double{before[at]});
    }
  }
  Compare(report, absl::StrCat("scalar sinks, M=", s.m), a.o, expected);
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  for (const Shape& shape : kChecked) {
    Operands a(shape);
    const std::string name = absl::StrCat("M=", shape.m, " sinks=", shape.num_sinks, " rest=", shape.rest,
                                          " H=", shape.num_heads, "/", shape.num_kv_heads);
    if (!attention::Reference(a.Attention(true)).ok()) return {};
    const std::vector<float> expected = a.o, expected_lse = a.lse;
    if (fault == Fault::kOneElement) a.v[0] += 0.1f;
    if (!attention::Run(a.Attention(false), pool).ok()) return {};
    const std::vector<float> rest = a.o, rest_lse = a.lse;
    if (!Run(a.Merge(), pool).ok()) return {};
    Compare(report, name, a.o, expected);
    Compare(report, name + " lse", a.lse, expected_lse);
    a.o = rest;
    a.lse = rest_lse;
    if (!RunByQueryHead(a.Merge(), pool).ok()) return {};
    Compare(report, name + ", a key for each query head", a.o, expected);

    // Sinks one after the other, the first of them beside nothing; then the rest would follow.
    std::fill(a.lse.begin(), a.lse.end(), -std::numeric_limits<float>::infinity());
    std::fill(a.o.begin(), a.o.end(), std::nanf(""));
    if (!Run(a.Merge(), pool).ok()) return {};
    const std::vector<float> together = a.o;
    std::fill(a.lse.begin(), a.lse.end(), -std::numeric_limits<float>::infinity());
    for (int64_t i = 0; i < shape.num_sinks; ++i) {
      Params one = a.Merge();
      one.num_sinks = 1;
      one.k += i * shape.num_kv_heads * shape.head_dim;
      one.v += i * shape.num_kv_heads * shape.head_dim;
      if (!Run(one, pool).ok()) return {};
    }
    Compare(report, name + ", one by one", a.o, together);
    CheckScalarSinks(report, pool, a);
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (const Shape& s : {Shape{1, 0, 2, 32, 8, 128}, Shape{512, 0, 2, 32, 8, 128}}) {
    Operands a(s);
    const double rows = static_cast<double>(s.m * s.num_heads * s.head_dim);
    bench.Time(absl::StrCat("M=", s.m, " sinks=", s.num_sinks), 4 * rows * static_cast<double>(s.num_sinks),
               8 * rows, [&] { (void)Run(a.Merge(), bench.pool()); });
  }
}

}  // namespace spikefold::kernels::sinkmerge_f32_f32
