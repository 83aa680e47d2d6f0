// matmul_f32_s8r_sxg: W4A8, and every other pair of integer weights in groups and integer activations.
//   Y[m,n] = x_scale[m] * sum_g w_scale[n,g] * float(sum_{k in g} xq[m,k]*(wq[n,k] - w_zero[n,g]))
//            - x_scale[m]*x_zero[m]*w_row_sum[n] + tail
// With a scale for each x_group columns of x:
//   Y[m,n] = sum_g w_scale[n,g] * (x_scale[m,g'] * float(sum_{k in g} ...)) + tail          g' holds g
// With a scale a channel of which the groups' are whole multiples, factor[n,g] = w_scale[n,g] / w_scale[n]:
//   Y[m,n] = float(sum_g factor[n,g] * sum_{k in g} ...) * x_scale[m] * w_scale[n] + tail
// which is matmul_f32_s8r_s8c of the codes factor * (wq - w_zero).
//
// Layout    packed W: group_weights.h; 2, 3, 4 or 8 bits, zero points or none, a group may be a whole row.
//           Zero points are applied to the integer sums: w_zero * sum_{k in g} xq is one multiply-add a
//           group. x codes of fewer bits, 4-bit ones with their zero point already taken off, are int8 like
//           any other; an 8-bit zero point does not fit there: x_zero and the row sums of W.
// Requires  x codes in [-127, 127]; groups as CheckGroupLayout() says; x_group a multiple of group that
//           divides K; any M, N >= 1. K is padded inside if it is no multiple of 16. With w_scale: factors
//           from 1 to 16, factor * (wq - w_zero) in [-127, 127], K < 131072, scales from 2^-120.
// Moves     N*K*bits/8 + (2 or 4, + 1)*N*K/group + M*K + 4*M*N bytes; bound by memory for M < ~8.
// Exact     group sums are exact int32 on every ISA. The float sum runs over g ascending, one multiply and
//           one add each, never fused; then x_zero, then * x_scale, then the tail (outlier_tail.h): y is
//           bitwise the same on every ISA, for any number of threads and whatever rows are computed with it.
//           With w_scale it is bitwise matmul_f32_s8r_s8c's: from 16 rows on AVX-512 panels are made into its
//           layout, a panel at a time in cache, and multiplied by its tiles (AMX among them).
// Targets   AVX-512 VNNI (+ BF16 for the tail), AVX2, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/group_weights.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {

struct Params {
  int64_t m = 0, n = 0, k = 0, group = 0;
  const int8_t* x = nullptr;         // [m, k]
  int64_t x_group = 0;               // columns of x that share a scale; 0: all
  const float* x_scale = nullptr;    // [m], or [m, k/x_group]
  int64_t x_scale_stride = 1;        // without x_group: 0 for one scale of all rows
  const int32_t* x_zero = nullptr;   // [m] or null: x is x_scale * (code - x_zero); not with x_group
  const float* w_row_sum = nullptr;  // [n] sum_k w_scale*(wq - w_zero); needed with x_zero
  const void* w = nullptr;           // packed by PackGroups
  const float* w_scale = nullptr;    // [n] or null: of whole multiples; not with x_group or x_zero
  OutlierTail tail;
  float* y = nullptr;             // [m, n]
  int32_t* group_sums = nullptr;  // [m, n, k/group] or null: the integer sums, for tests
};
// Unimplemented: bits or a group that is not packed. InvalidArgument: an empty shape, a missing buffer.
absl::Status Supports(const Params& params);
// Plain loops, int64 and double: the definition. Reads `w`, not params.w.
absl::Status Reference(const Params& params, const GroupWeights& w);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
