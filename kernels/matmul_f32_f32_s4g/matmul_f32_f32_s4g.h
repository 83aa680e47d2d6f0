// matmul_f32_f32_s4g: W4A16 (activations in float32 here). Y[m,n] = sum_g w_scale[n,g] * sum_{k in g}
// x[m,k]*wq[n,k] + tail.
//
// Layout    shares Pack of matmul_f32_s8r_s4g.
// Requires  as matmul_f32_s8r_s4g.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {

struct Params {
  int64_t m = 0, n = 0, k = 0, group = 0;
  const float* x = nullptr;  // [m, k]
  const void* w = nullptr;   // packed by matmul_f32_s8r_s4g::Pack
  OutlierTail tail;
  float* y = nullptr;  // [m, n]
};
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params, const int8_t* codes, const float* scales);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
