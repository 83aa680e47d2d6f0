// matmul_f32_f32_s4g: W4A16 (activations in float32 here).
//   Y[m,n] = sum_g w_scale[n,g] * sum_{k in g} x[m,k]*wq[n,k] + tail.
//
// Layout    shares Pack of matmul_f32_s8r_s4g.
// Requires  as matmul_f32_s8r_s4g; no alignment beyond float.
// Moves     N*K/2 + (2 or 4)*N*K/group + 4*M*K + 4*M*N bytes; bound by memory for M < ~2, by the FMA rate
// above. Exact     a group's sum runs over k ascending in one float32 accumulator, fused; group sums times
// scale add up
//           over g ascending, fused; then the tail (outlier_tail.h): y is bitwise the same on AVX2 and
//           AVX-512, for any number of threads and whatever rows are computed with it. The plain target does
//           not fuse: tolerance there.
// Targets   AVX-512, AVX2+FMA+F16C, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {

struct Params {
  int64_t m = 0, n = 0, k = 0, group = 0;
  const float* x = nullptr;  // [m, k], kept columns set to zero
  const void* w = nullptr;   // packed by matmul_f32_s8r_s4g::Pack
  OutlierTail tail;
  float* y = nullptr;  // [m, n]
};
// Unimplemented: a group size outside matmul_f32_s8r_s4g's. InvalidArgument: an empty shape, a missing
// buffer.
absl::Status Supports(const Params& params);
// Plain loops in double: the definition. Reads `codes` and `scales`, not params.w.
absl::Status Reference(const Params& params, const int8_t* codes, const float* scales);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
