// matmul_f32_s8r_s8c: W8A8. Y[m,n] = float(sum_k xq[m,k]*wq[n,k]) * x_scale[m] * w_scale[n] + tail.
//
// Layout    packed W is private to the kernel (Pack); it is made at load time and never written to disk.
// Requires  codes in [-127, 127]; K < 131072 so that the int32 sum is exact; any M, N, K >= 1.
// Exact     the int32 sums are equal on every ISA. float(sum) is rounded once, then * x_scale, then *
// w_scale; then the tail in column order.
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
  const void* w = nullptr;         // packed
  const float* w_scale = nullptr;  // [n]
  OutlierTail tail;
  float* y = nullptr;       // [m, n] contiguous
  int32_t* sums = nullptr;  // [m, n] or null: the integer sums, for tests
};
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params, const int8_t* codes /* [n, k] unpacked */);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
