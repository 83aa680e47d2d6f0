// logsumexp_f64_f32: lse[m] = ln sum_n exp(x[m,n]) and the position of the largest x[m,n], over rows of
// logits.
//
// Requires  any M, N >= 1; no alignment beyond float.
// Moves     4*M*N bytes, twice: the second pass finds the row in L2 or L3.
// Exact     exp within 1 ulp of float32, relative to the row's maximum; sums in float64: |lse - exact| <=
// 2e-7.
//           Of equal largest values the first counts. A row's result does not depend on the others or
//           threads.
// Edges     a row with a NaN or an infinity has finite = false and nothing else set.
// Targets   AVX-512, AVX2, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::logsumexp_f64_f32 {

struct RowResult {
  double lse = 0;
  int64_t top = 0;  // first index of the largest value
  bool finite = false;
};
struct Params {
  int64_t m = 0, n = 0;
  const float* x = nullptr;  // [m, n], rows x_stride apart
  int64_t x_stride = 0;
  RowResult* out = nullptr;  // [m]
};
// InvalidArgument: an empty shape, a missing buffer, a stride shorter than a row.
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);
// One row on the calling thread.
RowResult RunRow(const float* x, int64_t n);

}  // namespace spikefold::kernels::logsumexp_f64_f32
