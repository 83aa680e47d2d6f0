// matmul_f32_f32_s8c: W8A16 (activations in float32 here). Y[m,n] = w_scale[n] * sum_k x[m,k]*wq[n,k] + tail.
//
// Layout    shares Pack of matmul_f32_s8r_s8c, so a tied head serves embedding look-up (UnpackRow * scale),
// W8A16 and W8A8. Exact     float32 sums in one fixed order a given ISA; tolerance across ISAs (see the
// conformance test).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "kernels/outlier_tail.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

struct Params {
  int64_t m = 0, n = 0, k = 0;
  const float* x = nullptr;        // [m, k], kept columns set to zero
  const void* w = nullptr;         // packed by matmul_f32_s8r_s8c::Pack
  const float* w_scale = nullptr;  // [n]
  OutlierTail tail;
  float* y = nullptr;  // [m, n]
};
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params, const int8_t* codes);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
