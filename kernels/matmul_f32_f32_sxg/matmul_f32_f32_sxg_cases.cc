#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"
#include "kernels/quantized_case.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {
namespace {

Params ParamsOf(const QuantizedOperands& o, const void* packed, std::vector<float>& y) {
  y.assign(static_cast<size_t>(o.shape.m * o.shape.n), std::nanf(""));
  return {.m = o.shape.m,
          .n = o.shape.n,
          .k = o.shape.k,
          .group = o.shape.group,
          .x = o.x.data(),
          .w = packed,
          .tail = o.Tail(),
          .y = y.data()};
}

// Row `row` of a call as a call of its own.
Params OneRow(Params p, int64_t row, float* y) {
  p.m = 1;
  p.x += row * p.k;
  p.tail.kept_x += row * p.tail.num_kept;
  p.tail.super_x += row * p.tail.super_x_stride;
  p.y = y;
  return p;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  uint64_t seed = 4000;
  for (const QuantizedCase& c : GroupCases()) {
    QuantizedOperands o(c, seed += 20);
    std::vector<float> expected, y;
    if (!Reference(ParamsOf(o, nullptr, expected), o.Groups()).ok()) return {};
    if (fault == Fault::kOneElement) o.codes.back() = static_cast<int8_t>(o.codes.back() ^ 1);
    std::vector<uint8_t> packed(GroupPackedBytes(LayoutOf(o.Groups())));
    PackGroups(o.Groups(), packed.data());
    const Params params = ParamsOf(o, packed.data(), y);
    if (!Run(params, pool).ok()) return {};
    const std::string name = CaseName(c);
    // Roundings: the sum over K, the scale, and the tail.
    const double float_terms = static_cast<double>(c.num_kept + c.num_super + c.k) + 4;
    report.Compare(name, y, std::vector<double>(expected.begin(), expected.end()),
                   Tolerances(o, o.FloatRows(), expected, float_terms));
    // A row's result does not depend on the rows beside it: prefill equals decode.
    std::vector<float> alone(y.size());
    for (int64_t row = 0; row < c.m; ++row) {
      if (!Run(OneRow(params, row, alone.data() + row * c.n), pool).ok()) return {};
    }
    report.CompareExact(absl::StrCat(name, " row by row"), alone, y);
  }
  return report;
}

namespace {

// Few shapes unless `all`.
void TimeForm(const QuantizedCase& form, bool all, Bench& bench) {
  const auto layout = [&](int64_t n, int64_t k) {
    return GroupLayout{.n = n,
                       .k = k,
                       .group = form.group,
                       .bits = form.bits,
                       .zeros = form.w_zeros,
                       .scales = ScaleType::kF16};
  };
  for (const BenchShape& s :
       BenchShapes([&](int64_t n, int64_t k) { return GroupPackedBytes(layout(n, k)); })) {
    if (!all && (s.num_kept > 0 || (s.k < 1536 && s.n < 49152))) continue;
    QuantizedCase c = form;
    c.m = s.m;
    c.n = s.n;
    c.k = s.k;
    c.num_kept = s.num_kept;
    const QuantizedOperands o(c, 1);
    const size_t bytes = GroupPackedBytes(LayoutOf(o.Groups()));
    std::vector<uint8_t> packed(bytes * static_cast<size_t>(s.copies));
    for (int64_t i = 0; i < s.copies; ++i) {
      PackGroups(o.Groups(), packed.data() + static_cast<size_t>(i) * bytes);
    }
    std::vector<float> y;
    Params params = ParamsOf(o, packed.data(), y);
    int64_t turn = 0;
    const double ops = 2.0 * static_cast<double>(s.m * s.n * (s.k + s.num_kept));
    const double moved =
        static_cast<double>(bytes) + 4.0 * static_cast<double>(PackedKeptWords(s.n, s.num_kept));
    bench.Time(CaseName(o.shape), ops, moved, [&] {
      params.w = packed.data() + static_cast<size_t>(turn++ % s.copies) * bytes;
      (void)Run(params, bench.pool());
    });
  }
}

}  // namespace

void Benchmark(Bench& bench) {
  TimeForm({.group = 32, .bits = 4}, true, bench);
  TimeForm({.group = 32, .bits = 4, .w_zeros = true}, false, bench);
  TimeForm({.group = 64, .bits = 2, .w_zeros = true}, false, bench);
  TimeForm({.group = 64, .bits = 3}, false, bench);
  TimeForm({.group = 64, .bits = 8}, false, bench);
}

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
