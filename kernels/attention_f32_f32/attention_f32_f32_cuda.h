// attention_f32_f32 on a GPU: causal (optionally sliding-window) grouped-query attention over a float cache
// in device memory, float32 throughout. Method    a block of threads takes 32 query rows of a head through
// blocks of 32 keys with an online softmax;
//           key blocks lie at absolute cache positions and a masked key adds exactly 0, so a row's result
//           does not depend on the other rows: decoding equals a prefill bit for bit.
// Requires  head_dim <= 256, a multiple of 4.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::attention_f32_f32 {

struct CudaParams {  // device addresses
  int64_t m = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  const float* q = nullptr;  // [m, num_heads, head_dim]
  const float* k = nullptr;  // [positions, num_kv_heads, head_dim] holding first + m rows
  const float* v = nullptr;  // as k
  int64_t first = 0;         // cache position of query row 0
  float scale = 1;
  int64_t window = 0;  // 0: all
  float* o = nullptr;  // [m, num_heads, head_dim]
};
// Unimplemented: a head_dim without a kernel.
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::attention_f32_f32
