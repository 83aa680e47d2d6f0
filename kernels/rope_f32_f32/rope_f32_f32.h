// rope_f32_f32: rotary embedding, in place, of the pairs (i, i + head_dim/2) of each head ("rotate half").
//   x[i]       = x[i] * cos[i] - x[i + h] * sin[i]
//   x[i + h]   = x[i + h] * cos[i] + x[i] * sin[i]        h = head_dim/2, cos and sin of position*inv_freq[i]
// J. Su et al., "RoFormer" (2021), equation 34, with the pairs as Hugging Face's Llama orders them.
//
// Requires  head_dim even and >= 2; any M, num_heads >= 1; no alignment beyond float.
// Moves     8*M*num_heads*head_dim bytes; bound by memory.
// Exact     two roundings a product sum at most (one is fused on AVX2 and AVX-512): error
//           <= 2^-23 * (|x[i]*cos| + |x[i+h]*sin|). A row's result does not depend on the others.
// Targets   AVX-512, AVX2, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::rope_f32_f32 {

struct Params {
  int64_t m = 0, num_heads = 0, head_dim = 0;
  float* x = nullptr;          // [m, num_heads, head_dim], in place
  const float* cos = nullptr;  // [m, head_dim/2] of each row's position
  const float* sin = nullptr;  // [m, head_dim/2]
};
// InvalidArgument: an empty shape, an odd head_dim or a missing buffer.
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::rope_f32_f32
