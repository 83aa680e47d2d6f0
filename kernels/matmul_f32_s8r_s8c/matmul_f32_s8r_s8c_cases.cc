#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/quantized_case.h"

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
Params OneRow(Params p, int64_t row, float* y) {
  p.m = 1;
  p.x += row * p.k;
  p.x_scale += row * p.x_scale_stride;
  if (p.x_zero != nullptr) p.x_zero += row;
  p.tail.kept_x += row * p.tail.num_kept;
  p.tail.super_x += row * p.tail.super_x_stride;
  p.y = y;
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
    // A row's result does not depend on the rows beside it: prefill equals decode.
    std::vector<float> alone(y.size());
    for (int64_t row = 0; row < c.m; ++row) {
      if (!Run(OneRow(params, row, alone.data() + row * c.n), pool).ok()) return {};
    }
    report.CompareExact(absl::StrCat(name, " row by row"), alone, y);
  }
  return report;
}

void Benchmark(Bench& bench) {
  for (const BenchShape& s : BenchShapes(PackedBytes)) {
    const QuantizedOperands o({.m = s.m, .n = s.n, .k = s.k, .num_kept = s.num_kept}, 1);
    const size_t bytes = PackedBytes(s.n, s.k);
    std::vector<uint8_t> packed(bytes * static_cast<size_t>(s.copies));
    for (int64_t i = 0; i < s.copies; ++i) {
      Pack(o.codes.data(), s.n, s.k, packed.data() + static_cast<size_t>(i) * bytes);
    }
    std::vector<float> y;
    Params params = ParamsOf(o, packed.data(), y, nullptr);
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

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
