// sinkmerge_f32_f32: the exact sink epilogue. Puts rows that every query sees (a KV prefix, explicit keys and
// values, scalar sinks) beside an attention that did not see them:
//   l_s = scale * q.k_s,  L = ln(exp(lse) + sum_s exp(l_s) + exp(logit))
//   o   = exp(lse - L) * o + sum_s exp(l_s - L) * v_s,  lse = L
// With one sink that is o = (1 - g) o + g v_s, g = sigmoid(l_s - lse): a gate and a constant. A scalar sink
// has a score and the value 0, so it is a gate alone. Attention is a sum over keys divided by a sum over
// keys, so the rows may be split anywhere (as in M. Milakov, N. Gimelshein, 2018); rows in float can so stand
// beside any cache whose attention tells its log-sum-exp.
//
// Requires  num_heads a multiple of num_kv_heads; sink_heads either of the two; any head_dim >= 1.
// Moves     8*M*num_heads*head_dim bytes; num_sinks is small.
// Exact     scores and weights in float64, rounded once: against attention over all rows the error is that of
//           the lse given, 1e-6 relative. -infinity as lse: nothing was seen, o is not read.
// Edges     keys are as attention sees them: rotated for the positions at which they stand.
// Targets   plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::sinkmerge_f32_f32 {

struct Params {
  int64_t m = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  const float* q = nullptr;  // [m, num_heads, head_dim]
  int64_t num_sinks = 0;
  int64_t sink_heads = 0;        // num_kv_heads: rows of a cache; num_heads: keys and values of a query head
  const float* k = nullptr;      // [num_sinks, sink_heads, head_dim]
  const float* v = nullptr;      // as k
  const float* logit = nullptr;  // [num_heads] scalar sinks; null: none
  float scale = 1;
  float* lse = nullptr;  // [m, num_heads] of what `o` holds; then of all
  float* o = nullptr;    // [m, num_heads, head_dim], in place
};
// InvalidArgument: an empty shape, heads that do not divide, no sink at all, a missing buffer.
absl::Status Supports(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::sinkmerge_f32_f32
