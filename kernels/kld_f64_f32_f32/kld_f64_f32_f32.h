// kld_f64_f32_f32: Kullback-Leibler divergence of two rows of logits, p (reference) and q, over all N
// classes:
//   kld = sum_v P(v) * (ln P(v) - ln Q(v)),   P = softmax(p), Q = softmax(q)
// and what comes along: both log-sum-exps, both largest classes, and the part of kld from rare classes.
//
// Method    kld = sum_v P * f(x), x = ln P - ln Q, f(x) = x - 1 + e^-x: the same number, because P and Q both
//           sum to 1, but every term is >= 0 and f(x) is about x^2/2. So a relative error of e in the exps is
//           one of e in kld, where the plain sum would cancel from x to x^2 and lose 1/x of its digits.
//           f is a polynomial for |x| < 1; beyond, P * (x - 1) + Q.
// Requires  any M, N >= 1; no alignment beyond float.
// Moves     8*M*N bytes, three times: the later passes find the rows in L2 or L3.
// Exact     |kld - exact| <= 1e-9 + 1e-6 * kld; equal rows give exactly 0. |lse - exact| <= 2e-7.
//           A row's result does not depend on the others or threads.
// Edges     a row with a NaN or an infinity in p or q has finite = false and nothing else set.
// Targets   AVX-512, AVX2, plain C++; sm_80 (kld_f64_f32_f32_cuda.h).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::kld_f64_f32_f32 {

inline constexpr double kRareLogP = -16;  // where llama.cpp's perplexity tool stops counting

struct RowResult {
  double lse_p = 0, lse_q = 0;
  double kld = 0;
  double kld_rare = 0;           // sum of P * (ln P - ln Q) over ln P <= kRareLogP alone; any sign
  int64_t top_p = 0, top_q = 0;  // first index of the largest value
  bool finite = false;
};
// A row, and both models' logits of one class, its target: all that a score needs of two rows of logits.
struct TargetRow {
  RowResult row;
  float p = 0, q = 0;
};
struct Params {
  int64_t m = 0, n = 0;
  const float* p = nullptr;  // [m, n], rows stride apart
  const float* q = nullptr;  // [m, n], rows stride apart
  int64_t stride = 0;
  RowResult* out = nullptr;  // [m]
};
// InvalidArgument: an empty shape, a missing buffer, a stride shorter than a row.
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);
// One row on the calling thread.
RowResult RunRow(const float* p, const float* q, int64_t n);

}  // namespace spikefold::kernels::kld_f64_f32_f32
