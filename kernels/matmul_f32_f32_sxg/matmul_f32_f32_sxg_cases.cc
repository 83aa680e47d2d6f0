#include <cmath>

#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"
#include "kernels/quantized_check.h"

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
    const auto one_row = [&](int64_t row) { return RowOf(params, row); };
    if (!CompareRows(name, params, y, one_row, pool, report)) return {};
  }
  return report;
}

namespace {

// Few shapes unless `all`.
void TimeForm(const QuantizedCase& form, bool all, Bench& bench) {
  for (const BenchShape& s : GroupBenchShapes(form, all)) {
    const QuantizedOperands o(WithShape(form, s), 1);
    const auto pack = [&](void* to) { PackGroups(o.Groups(), to); };
    std::vector<float> y;
    TimeLinear(s, o, GroupPackedBytes(LayoutOf(o.Groups())), pack, ParamsOf(o, nullptr, y), bench);
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
