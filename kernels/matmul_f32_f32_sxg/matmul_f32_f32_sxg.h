// matmul_f32_f32_sxg: W4A16, and weights of 2, 3 or 8 bits in groups (activations in float32 here).
//   Y[m,n] = sum_g w_scale[n,g] * sum_{k in g} x[m,k]*(wq[n,k] - w_zero[n,g]) + tail.
//
// Layout    packed W: group_weights.h; 2, 3, 4 or 8 bits, zero points or none, a group may be a whole row.
//           A zero point is taken off while a code becomes a float, which costs no extra operation.
// Requires  groups as CheckGroupLayout() says; no alignment beyond float. K is padded inside if it is no
//           multiple of 16.
// Moves     N*K*bits/8 + (2 or 4, + 1)*N*K/group + 4*M*K + 4*M*N bytes; bound by memory for M < ~2, by the
//           FMA rate above.
// Exact     a group's sum runs over k ascending in one float32 accumulator, fused; group sums times scale add
//           up over g ascending, fused; then the tail (outlier_tail.h): y is bitwise the same on AVX2 and
//           AVX-512, for any number of threads and whatever rows are computed with it. The plain target does
//           not fuse: tolerance there.
// Targets   AVX-512, AVX2+FMA+F16C, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/group_weights.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {

struct Params {
  int64_t m = 0, n = 0, k = 0, group = 0;
  const float* x = nullptr;  // [m, k]; kept columns need not be zero, their codes mean 0
  const void* w = nullptr;   // packed by PackGroups
  OutlierTail tail;
  float* y = nullptr;  // [m, n]
};
// Unimplemented: bits or a group that is not packed. InvalidArgument: an empty shape, a missing buffer.
absl::Status Supports(const Params& params);
// Plain loops in double: the definition. Reads `w`, not params.w.
absl::Status Reference(const Params& params, const GroupWeights& w);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
