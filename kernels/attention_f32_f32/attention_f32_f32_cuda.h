// attention_f32_f32 on a GPU: causal (optionally sliding-window) grouped-query attention over a float cache
// in device memory, float32 or as exact as it.
// Method    key blocks lie at absolute cache positions and a masked key adds exactly 0, so a row's result
//           does not depend on the rows beside it in a call of either kernel. Few rows: a block of threads
//           takes 32 query rows of a head through blocks of 32 keys on the CUDA cores. From 16 rows on, and
//           head_dim a multiple of 16 up to 128: tensor cores, on values split into two bf16 halves.
// Exact     to float32 rounding; 2^-17 of each product's size on the tensor cores.
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
// On the tensor cores from so many rows on, where head_dim allows.
inline constexpr int64_t kMmaRows = 16;
absl::Status RunMma(const CudaParams& params, const cuda::Stream& stream);
// Unimplemented: a head_dim without a kernel.
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::attention_f32_f32
