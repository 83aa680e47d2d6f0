// attention_f32_f32: causal (optionally sliding-window) grouped-query attention over a float KV cache, online
// softmax in float32.
//
// Query row m of head h sits at cache position first + m and sees cache positions j <= first + m, j > first +
// m - window (window 0: all); positions below num_sinks (prefix rows) are always seen when pin_sinks is set.
// Writes o[m, h, :] = sum_j softmax_j(scale * q.k_j) v_j. KV head of query head h: h / (num_heads /
// num_kv_heads).
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
  // j < first + m.
  double* column_mass = nullptr;  // [num_heads, first + m]
};
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::attention_f32_f32
