// matmul_f32_s8r_s4g: W4A8. Y[m,n] = x_scale[m] * sum_g w_scale[n,g] * float(sum_{k in g} xq[m,k]*wq[n,k]) +
// tail.
//
// Layout    codes come in as int8 in [-8, 7]; packed W is private to the kernel (two codes a byte plus the
// scales in the order of use). Requires  K % group == 0, group % 16 == 0 and 16 <= group <= 256; any M, N
// >= 1. Scales are float32 here (stored bf16/f16 values widened). Exact     group sums are exact int32 on
// every ISA; the float accumulation runs over g ascending with one float32 fma-free multiply-add each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {

size_t PackedBytes(int64_t n, int64_t k, int64_t group);
void Pack(const int8_t* codes /* [n, k] */, const float* scales /* [n, k/group] */, int64_t n, int64_t k,
          int64_t group, void* packed);
// Dequantized row: codes * scale.
void UnpackRow(const void* packed, int64_t n, int64_t k, int64_t group, int64_t row, float* out /* [k] */);

struct Params {
  int64_t m = 0, n = 0, k = 0, group = 0;
  const int8_t* x = nullptr;       // [m, k]
  const float* x_scale = nullptr;  // [m]; stride 0: [1]
  int64_t x_scale_stride = 1;
  const void* w = nullptr;  // packed, with scales
  OutlierTail tail;
  float* y = nullptr;  // [m, n]
};
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params, const int8_t* codes, const float* scales);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
