// What the checks and benchmarks of the quantized matmuls do alike. Params are those of any of them; Run is
// the one beside them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/thread_pool.h"
#include "kernels/kernel_check.h"
#include "kernels/quantized_case.h"

namespace spikefold::kernels {

// Row `row` of a call as a call of its own, but for what x has a row, which is the caller's.
template <typename Params>
Params RowOf(Params p, int64_t row) {
  p.m = 1;
  p.x += row * p.k;
  p.tail.kept_x += row * p.tail.num_kept;
  p.tail.super_x += row * p.tail.super_x_stride;
  return p;
}

// A row's result does not depend on the rows beside it: prefill equals decode. `y` [m, n] is what `params`
// gave; one_row(row) is the call of one row, wherever it writes. False if a call fails.
template <typename Params, typename OneRow>
bool CompareRows(const std::string& name, const Params& params, const std::vector<float>& y, OneRow one_row,
                 ThreadPool& pool, CheckReport& report) {
  std::vector<float> alone(y.size());
  for (int64_t row = 0; row < params.m; ++row) {
    Params p = one_row(row);
    p.y = alone.data() + row * p.n;
    if (!Run(p, pool).ok()) return false;
  }
  report.CompareExact(absl::StrCat(name, " row by row"), alone, y);
  return true;
}

// One linear of the benchmark: pack(to) packs its weights, `bytes` of them; `params` has all but these.
template <typename Params, typename Pack>
void TimeLinear(const BenchShape& s, const QuantizedOperands& o, size_t bytes, Pack pack, Params params,
                Bench& bench) {
  std::vector<uint8_t> packed(bytes * static_cast<size_t>(s.copies));
  for (int64_t i = 0; i < s.copies; ++i) pack(packed.data() + static_cast<size_t>(i) * bytes);
  int64_t turn = 0;
  const double ops = 2.0 * static_cast<double>(s.m * s.n * (s.k + s.num_kept));
  const double moved =
      static_cast<double>(bytes) + 4.0 * static_cast<double>(PackedKeptWords(s.n, s.num_kept));
  bench.Time(CaseName(o.shape), ops, moved, [&] {
    params.w = packed.data() + static_cast<size_t>(turn++ % s.copies) * bytes;
    (void)Run(params, bench.pool());
  });
}

}  // namespace spikefold::kernels
