// rope_f32_f32: rotates (i, i + head_dim/2) pairs in place (HF "rotate half" convention) by position *
// inv_freq[i].
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
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::rope_f32_f32
