// matmul_f32_f32_s8c: W8A16 (activations in float32 here). Y[m,n] = w_scale[n] * sum_k x[m,k]*wq[n,k] + tail.
//
// Layout    shares Pack of matmul_f32_s8r_s8c, so a tied head serves embedding look-up (UnpackRow * scale),
//           W8A16 and W8A8.
// Requires  codes in [-127, 127]; any M, N, K >= 1; no alignment beyond float.
// Moves     N*K + 4*M*K + 4*M*N bytes; bound by memory for M < ~4, by products above.
// Exact     with AMX and VNNI a row of x is rounded to whole numbers of 2^-22 of the power of two above its
//           largest value, their products with the codes are summed as integers and without error, and the
//           sum is rounded once: in a row with one value 10^4 times the others these lose a thousandth
//           wherever that value's weight is small, where float32 would lose none (SmolLM2's spikes, 20 chunks
//           of w8a16: KL divergence 0.004175989 and 0.004175987). A row with a value that is not finite is
//           NaN throughout. With AVX-512 and AVX2 (2.5 times as slow in integers) one float32 accumulator an
//           output, fused multiply-adds over k ascending. Then * w_scale, then the tail (outlier_tail.h): y
//           is bitwise the same on all levels of either kind, for any number of threads and whatever rows are
//           computed with it. The plain target does not fuse: tolerance there. K above 65536 runs as with
//           AVX-512.
// Targets   AMX (from 16 rows), AVX-512 VNNI, AVX-512, AVX2+FMA, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

struct Params {
  int64_t m = 0, n = 0, k = 0;
  const float* x = nullptr;        // [m, k], kept columns set to zero
  const void* w = nullptr;         // packed by matmul_f32_s8r_s8c::Pack
  const float* w_scale = nullptr;  // [n]
  OutlierTail tail;
  float* y = nullptr;  // [m, n]
};
// InvalidArgument: an empty shape or a missing buffer.
absl::Status Supports(const Params& params);
// Plain loops in double: the definition. Reads `codes`, not params.w.
absl::Status Reference(const Params& params, const int8_t* codes /* [n, k] unpacked */);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
