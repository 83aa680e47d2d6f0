#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernel_check.h"
#include "kernels/rope_f32_f32/rope_f32_f32.h"

namespace spikefold::kernels::rope_f32_f32 {
namespace {

struct Shape {
  int64_t m, num_heads, head_dim;
};

struct Operands {
  explicit Operands(const Shape& s) : x(RandomFloats(s.m * s.num_heads * s.head_dim, 1)) {
    const int64_t half = s.head_dim / 2;
    for (int64_t i = 0; i < s.m * half; ++i) {
      const int64_t position = i / half + 5;
      const double angle = static_cast<double>(position) *
                           std::pow(1e4, -static_cast<double>(i % half) / static_cast<double>(half));
      cos.push_back(static_cast<float>(std::cos(angle)));
      sin.push_back(static_cast<float>(std::sin(angle)));
    }
    params = {.m = s.m,
              .num_heads = s.num_heads,
              .head_dim = s.head_dim,
              .x = x.data(),
              .cos = cos.data(),
              .sin = sin.data()};
  }
  std::vector<float> x, cos, sin;
  Params params;
};

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault);  // kernel_list.cc
void Benchmark(Bench& bench);

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  for (const Shape& s :
       {Shape{1, 1, 2}, {3, 2, 6}, {7, 3, 64}, {2, 5, 96}, {40, 9, 64}, {3, 1, 256}, {5, 2, 80}}) {
    Operands a(s);
    std::vector<float> expected = a.x;
    Params reference = a.params;
    reference.x = expected.data();
    if (!Reference(reference).ok()) return {};
    std::vector<double> tolerance;
    for (int64_t i = 0; i < s.m * s.num_heads * s.head_dim; ++i) {
      const int64_t half = s.head_dim / 2, in_head = i % s.head_dim;
      const int64_t pair = i - in_head + (in_head + half) % s.head_dim;
      tolerance.push_back(
          0x1p-23 * (std::fabs(a.x[static_cast<size_t>(i)]) + std::fabs(a.x[static_cast<size_t>(pair)])));
    }
    if (fault == Fault::kOneElement) a.sin[0] += 0x1p-18f;
    if (!Run(a.params, pool).ok()) return {};
    report.Compare(absl::StrCat("M=", s.m, " H=", s.num_heads, " E=", s.head_dim), a.x,
                   std::vector<double>(expected.begin(), expected.end()), tolerance);
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (const Shape& s : {Shape{1, 9, 64}, {512, 9, 64}, {512, 32, 128}}) {
    Operands a(s);
    const double count = static_cast<double>(a.x.size());
    bench.Time(absl::StrCat("M=", s.m, " H=", s.num_heads, " E=", s.head_dim), 3 * count, 8 * count,
               [&] { (void)Run(a.params, bench.pool()); });
  }
}

}  // namespace spikefold::kernels::rope_f32_f32
