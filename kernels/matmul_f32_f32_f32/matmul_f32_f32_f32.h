// matmul_f32_f32_f32: Y[M,N] = X[M,K] * W[N,K]^T (+ bias), all float32, float32 accumulators.
//
// Layout    packed W = panels of kPanel output rows: panel p holds W[p*kPanel + i][k] at [(p*K + k)*kPanel +
//           i]; the last panel is zero-padded. One copy serves GEMM, GEMV and row look-up (UnpackRow), so a
//           tied embedding is stored once.
// Requires  any M, N, K >= 1; no alignment beyond float.
// Moves     4*(N*K + M*K + M*N) bytes. Bound by FMA rate for M >= ~8, by memory below.
// Exact     K is cut into blocks of kSumBlock; within a block a sum runs over k in order, and the blocks'
//           sums are added in order, then the bias. So a Y element is the same bit for bit whatever rows
//           are computed with it, in whatever tile and on whatever number of threads; it is the same on
//           AVX2 and AVX-512 (the plain level has no fused multiply-add).
// Error     |Y - exact| <= (min(K, kSumBlock) + K / kSumBlock + 2) * 2^-24 * sum_k |x*w|, to first order;
//           on average the root of half of that many terms, which kSumBlock near the root of K keeps small:
//           a model's logits move least when it is rewritten.
// Targets   AVX-512 (12 x 32 register tile), AVX2 (6 x 16), plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

inline constexpr int64_t kPanel = 32;
inline constexpr int64_t kSumBlock = 64;

int64_t PackedElements(int64_t n, int64_t k);
void Pack(const float* w /* [n, k] */, int64_t n, int64_t k, float* packed);
// Writes rows [first_row, first_row + num_rows) only. The padding rows of the last panel are zeroed when row
// n - 1 is written.
void PackRows(const float* rows /* [num_rows, k] */, int64_t first_row, int64_t num_rows, int64_t n,
              int64_t k, float* packed);
void UnpackRow(const float* packed, int64_t n, int64_t k, int64_t row, float* out /* [k] */);

struct Params {
  int64_t m = 0, n = 0, k = 0;
  const float* x = nullptr;  // [m, k], rows x_stride apart
  int64_t x_stride = 0;
  const float* w = nullptr;     // packed
  const float* bias = nullptr;  // [n] or null
  float* y = nullptr;           // [m, n], rows y_stride apart; no overlap with x, w, bias
  int64_t y_stride = 0;
};
// InvalidArgument: an empty shape, a missing buffer, or a stride shorter than its rows.
absl::Status Supports(const Params& params);
// Plain loops in float64, rounded once: the definition.
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_f32_f32
