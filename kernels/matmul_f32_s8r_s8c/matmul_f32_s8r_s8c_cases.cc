#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/quantized_check.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

Params ParamsOf(const QuantizedOperands& o, const void* packed, std::vector<float>& y,
                std::vector<int32_t>* sums) {
  y.assign(static_cast<size_t>(o.shape.m * o.shape.n), std::nanf(""));
  if (sums != nullptr) sums->assign(y.size(), 0);
  return {.m = o.shape.m,
          .n = o.shape.n,
          .k = o.shape.k,
          .x = o.x_codes.data(),
          .x_scale = o.x_scale.data(),
          .x_scale_stride = o.shape.one_x_scale ? 0 : 1,
          .x_zero = o.x_zero.empty() ? nullptr : o.x_zero.data(),
          .w_code_sum = o.w_code_sum.data(),
          .w = packed,
          .w_scale = o.w_scale.data(),
          .tail = o.Tail(),
          .y = y.data(),
          .sums = sums == nullptr ? nullptr : sums->data()};
}

// Row `row` of a call as a call of its own.
Params OneRow(const Params& params, int64_t row) {
  Params p = RowOf(params, row);
  p.x_scale += row * p.x_scale_stride;
  if (p.x_zero != nullptr) p.x_zero += row;
  p.sums = nullptr;
  return p;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  uint64_t seed = 1000;
  for (const QuantizedCase& c : ChannelCases()) {
    QuantizedOperands o(c, seed += 20);
    std::vector<float> expected, y;
    std::vector<int32_t> expected_sums, sums;
    if (!Reference(ParamsOf(o, nullptr, expected, &expected_sums), o.codes.data()).ok()) return {};
    if (fault == Fault::kOneElement) o.codes.back() = static_cast<int8_t>(o.codes.back() ^ 1);
    std::vector<uint8_t> packed(PackedBytes(c.n, c.k));
    Pack(o.codes.data(), c.n, c.k, packed.data());
    const Params params = ParamsOf(o, packed.data(), y, &sums);
    if (!Run(params, pool).ok()) return {};
    const std::string name = CaseName(c);
    report.CompareExact(absl::StrCat(name, " sums"), sums, expected_sums);
    // Roundings: the sum's, two scales, and the tail.
    const double float_terms = static_cast<double>(c.num_kept + c.num_super) + 4;
    report.Compare(name, y, std::vector<double>(expected.begin(), expected.end()),
                   Tolerances(o, o.CodeRows(), expected, float_terms));
    const auto one_row = [&](int64_t row) { return OneRow(params, row); };
    if (!CompareRows(name, params, y, one_row, pool, report)) return {};
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (const BenchShape& s : BenchShapes(PackedBytes)) {
    const QuantizedOperands o({.m = s.m, .n = s.n, .k = s.k, .num_kept = s.num_kept}, 1);
    const auto pack = [&](void* to) { Pack(o.codes.data(), s.n, s.k, to); };
    std::vector<float> y;
    TimeLinear(s, o, PackedBytes(s.n, s.k), pack, ParamsOf(o, nullptr, y, nullptr), bench);
  }
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
