// matmul_f32_s8r_s8c: W8A8, and 4-bit activations against 8-bit weights.
//   Y[m,n] = float(sum_k (xq[m,k] - x_zero[m])*wq[n,k]) * x_scale[m] * w_scale[n] + tail.
//
// Layout    packed W, made at load time and never written to disk: u8 code + 128 at
//             [n / 32][k / 4][n % 32][k % 4]          (N padded to 32, K to 4, with code 0)
//           so 16 channels x 4 consecutive k fill a 64-byte register. The weight is the unsigned operand of
//           vpdpbusd, x the signed one, and 128 * sum_k xq[m,k] comes off each sum: x is read as it is.
//           A zero point of x is x_zero[m] * w_code_sum[n], taken off once an output.
// Requires  codes and zero points in [-127, 127]; K < 131072 (65536 with zero points) so that the int32 sum
// is
//           exact; any M, N, K >= 1; no alignment.
// Moves     N*K + M*K + 4*M*N bytes; bound by memory for M < ~16, by vpdpbusd above.
// Exact     the int32 sums are equal on every ISA and to the reference. float(sum) is rounded once, then
//           * x_scale, then * w_scale; then the tail (outlier_tail.h): y is bitwise the same on every ISA,
//           for any number of threads and whatever rows are computed with it.
// Targets   AMX (from 16 rows), AVX-512 VNNI (+ BF16 for the tail), AVX2, plain C++.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {

size_t PackedBytes(int64_t n, int64_t k);
void Pack(const int8_t* codes /* [n, k] */, int64_t n, int64_t k, void* packed);
void UnpackRow(const void* packed, int64_t n, int64_t k, int64_t row, int8_t* out /* [k] */);

struct Params {
  int64_t m = 0, n = 0, k = 0;
  const int8_t* x = nullptr;       // [m, k] contiguous
  const float* x_scale = nullptr;  // [m]; with x_scale_stride 0: [1]
  int64_t x_scale_stride = 1;
  const int32_t* x_zero = nullptr;      // [m] or null
  const int32_t* w_code_sum = nullptr;  // [n] sum_k wq; needed with x_zero
  const void* w = nullptr;              // packed
  const float* w_scale = nullptr;       // [n]
  OutlierTail tail;
  float* y = nullptr;       // [m, n] contiguous
  int32_t* sums = nullptr;  // [m, n] or null: the integer sums, for tests
};
// Unimplemented: K too large. InvalidArgument: an empty shape or a missing buffer.
absl::Status Supports(const Params& params);
// Plain loops, int64 and double: the definition. Reads `codes`, not params.w.
absl::Status Reference(const Params& params, const int8_t* codes /* [n, k] unpacked */);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
