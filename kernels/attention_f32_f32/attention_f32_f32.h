// attention_f32_f32: causal (optionally sliding-window) grouped-query attention over a float KV cache.
//
// Query row m of head h sits at cache position first + m and sees cache positions j <= first + m, j > first +
// m - window (window 0: all); positions below num_sinks (prefix rows) are always seen when pin_sinks is set.
// Writes o[m, h, :] = sum_j softmax_j(scale * q.k_j) v_j. KV head of query head h: h / (num_heads /
// num_kv_heads).
//
// Method    online softmax over blocks of kKeyBlock keys at absolute cache positions (M. Milakov, N.
//           Gimelshein, "Online normalizer calculation for softmax", 2018), all in float32.
// Requires  num_heads a multiple of num_kv_heads; any head_dim >= 1 (multiples of 16 are fastest);
//           no alignment beyond float.
// Moves     4*num_kv_heads*head_dim*2*(first + M) bytes of cache a call; bound by memory for M = 1, by FMA
// and
//           exp for a prefill.
// Exact     a row's result depends on its query and the cache only: not on M, the other rows or threads. So
//           decoding with a cache equals a prefill bit for bit. Error: about 2^-24 * (head_dim + keys + 8)
//           relative to sum_j softmax_j |v_j|, from the scores' own rounding when they are large
//           (|score| * 2^-22).
// Targets   AVX-512, AVX2, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::attention_f32_f32 {

struct Params {
  int64_t m = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  const float* q = nullptr;  // [m, num_heads, head_dim]
  const float* k = nullptr;  // cache [positions, num_kv_heads, head_dim] holding first + m rows
  const float* v = nullptr;  // as k
  int64_t first = 0;         // cache position of query row 0
  float scale = 1;
  int64_t window = 0;
  int64_t num_sinks = 0;
  bool pin_sinks = false;
  float* o = nullptr;  // [m, num_heads, head_dim]
  // For the census: if not null, column_mass[h, j] += sum over query rows m with first + m >= j of softmax_j,
  // j < first + m. Costs a second pass over the scores; added to in row order, in float64.
  double* column_mass = nullptr;  // [num_heads, first + m]
  // If not null: ln sum_j exp(scale * q.k_j) of each row, by which rows that were not seen can be put beside
  // these (sinkmerge_f32_f32).
  float* lse = nullptr;  // [m, num_heads]
};
// InvalidArgument: an empty shape, heads that do not divide, a missing buffer.
absl::Status Supports(const Params& params);
// Plain loops in float64: the definition.
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::attention_f32_f32
