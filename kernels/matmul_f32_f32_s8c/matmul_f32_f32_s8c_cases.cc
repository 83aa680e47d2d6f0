#include <cmath>

#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/quantized_check.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

Params ParamsOf(const QuantizedOperands& o, const void* packed, std::vector<float>& y) {
  y.assign(static_cast<size_t>(o.shape.m * o.shape.n), std::nanf(""));
  return {.m = o.shape.m,
          .n = o.shape.n,
          .k = o.shape.k,
          .x = o.x.data(),
          .w = packed,
          .w_scale = o.w_scale.data(),
          .tail = o.Tail(),
          .y = y.data()};
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  uint64_t seed = 3000;
  for (const QuantizedCase& c : ChannelCases()) {
    QuantizedOperands o(c, seed += 20);
    std::vector<float> expected, y;
    if (!Reference(ParamsOf(o, nullptr, expected), o.codes.data()).ok()) return {};
    if (fault == Fault::kOneElement) o.codes.back() = static_cast<int8_t>(o.codes.back() ^ 1);
    std::vector<uint8_t> packed(matmul_f32_s8r_s8c::PackedBytes(c.n, c.k));
    matmul_f32_s8r_s8c::Pack(o.codes.data(), c.n, c.k, packed.data());
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

void Benchmark(Bench& bench) {
  for (const BenchShape& s : BenchShapes(matmul_f32_s8r_s8c::PackedBytes)) {
    const QuantizedOperands o({.m = s.m, .n = s.n, .k = s.k, .num_kept = s.num_kept}, 1);
    const auto pack = [&](void* to) { matmul_f32_s8r_s8c::Pack(o.codes.data(), s.n, s.k, to); };
    std::vector<float> y;
    TimeLinear(s, o, matmul_f32_s8r_s8c::PackedBytes(s.n, s.k), pack, ParamsOf(o, nullptr, y), bench);
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
