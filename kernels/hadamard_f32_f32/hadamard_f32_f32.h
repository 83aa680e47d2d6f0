// hadamard_f32_f32: rows times a diagonal and a block-diagonal Hadamard matrix, in place.
//   x[m, :] <- (x[m, :] * diag(scale)) * (I_(n/b) (x) H),   H = H_f0 (x) H_f1 (x) ... (x) H_power, b = f0 *
//   f1 *
//   ... * power; the matrices are those of formats/base/hadamard.h. scale = random signs / sqrt(b) makes it a
//   rotation, applied online before a linear whose weights were rotated alike: (xR)(WR)^T = xW^T.
// J. Sylvester's butterflies for the power of two; for a table f, f * f multiply-adds over vectors of
// columns, half as many for a paired one (formats/base/hadamard.h), except order 12: with A = J and B = C = D
// = 2I - J, its 12 outputs take 52 additions instead of 132. S. Ashkboos et al., "QuaRot" (2024), section 4,
// uses the same product of factors.
//
// Requires  factors as HadamardFactors() makes them: up to three table orders, then one power of two (maybe
//           1); b divides n. No alignment beyond float.
// Moves     8*M*n bytes; a row stays in the first-level cache between its passes (n up to 8,192).
// Exact     error <= (log2 power + sum of table orders + 2) * 2^-24 * sum_k |x_k scale_k| over the block; a
// row's
//           result does not depend on the others or on threads.
// Targets   AVX-512, AVX2, plain C++.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::hadamard_f32_f32 {

struct Params {
  int64_t m = 0, n = 0;
  absl::Span<const int64_t> factors;
  const float* scale = nullptr;  // [n]
  float* x = nullptr;            // [m, n]
};
// InvalidArgument: an empty shape, a missing buffer, a factor without a matrix, or factors whose product does
// not divide n.
absl::Status Supports(const Params& params);
// Dense products with each matrix in float64.
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::hadamard_f32_f32
