// norm_f32_f32: RMSNorm rows. y[m,k] = x[m,k] * gain[k] / sqrt(mean_k x^2 + eps); the sum of squares in
// float64-safe float32 blocks.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::norm_f32_f32 {

struct Params {
  int64_t m = 0, k = 0;
  const float* x = nullptr;     // [m, k]; y may alias x
  const float* gain = nullptr;  // [k], offset already added
  float eps = 1e-6f;
  float* y = nullptr;  // [m, k]
};
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::norm_f32_f32
