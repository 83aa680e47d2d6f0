// norm_f32_f32: RMSNorm of rows. y[m,k] = x[m,k] * gain[k] / sqrt(mean_k x^2 + eps).
// B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization" (2019), equation 4.
//
// Requires  any M, K >= 1; no alignment beyond float; y may be x.
// Moves     8*M*K + 4*K bytes; bound by memory.
// Exact     x^2 is exact in float64 and summed in it in a fixed order, so spikes of 1e5 beside values of 1e-3
//           cost nothing; the factor is rounded to float32 once: y is within 2 ulp of the reference. A row's
//           result does not depend on the other rows or on threads.
// Edges     a row with an infinite or NaN element is NaN (or zero beside the infinity), as in the reference.
// Targets   AVX-512, AVX2, plain C++.
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
// InvalidArgument: an empty shape or a missing buffer.
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::norm_f32_f32
