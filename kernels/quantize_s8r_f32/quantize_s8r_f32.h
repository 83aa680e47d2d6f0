// quantize_s8r_f32: float rows -> int8 codes of 8 or 4 bits; a scale a row (per token), one for each group of
// columns of a row, or one static scale; with a zero point or none; with outliers split off.
//
//   symmetric   amax = max_{k not kept} |x[m,k]|, scale = amax / L     (numeric.h; L = 127 or 7, codes in
//   +-L)
//               q[m,k] = clamp(round_half_even(x[m,k] * (1/scale)), -L, L)
//   asymmetric  low = min(0, min_{k not kept} x[m,k]), high alike, scale = (high - low) / (codes - 1),
//               zero = the code nearest to where 0 lies; codes in [-127, 127] or [-8, 7]
//               c = clamp(round_half_even(x[m,k] * (1/scale)) + zero, lowest code, highest code)
//               q[m,k] = c (8 bits: x = scale * (q - zero)) or c - zero (4 bits: it fits in int8, so that
//               x = scale * q and no kernel sees the zero point)
//   static      scale and zero are given
//   q means 0 in kept columns (q = zero where there is one)
//   kept_x[m,c] = bf16(x[m, kept[c]]);  super_x[m,s] = bf16(x[m, super[s]])
// A spike row (max_{k not kept} |x[m,k]| > spike_threshold, run-time test) gets codes 0, kept_x 0 and super_x
// 0 (so its sums are 0, whatever its scale, which is 1 or static_scale; its zero is 0) and is listed in
// spike_rows, for the caller to compute in float. At most max_spike_rows are taken, the first ones; further
// ones are quantized as they are and counted in num_missed. num_saturated counts codes clamped under a static
// scale.
//
// Requires  any M, K >= 1; kept ascending; no alignment beyond float.
// Moves     5*M*K bytes (a row is read once from memory, once more from L1); bound by memory.
// Edges     a row of zeros gets scale 1 and codes 0; a NaN or infinity in x leaves that row unspecified.
// Exact     codes, scales and counts are equal on every ISA and to the reference, for any number of threads.
// Feeds     matmul_f32_s8r_s8c, matmul_f32_s8r_sxg
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::quantize_s8r_f32 {

struct Params {
  int64_t m = 0, k = 0;
  const float* x = nullptr;  // [m, k]
  int bits = 8;              // or 4
  bool symmetric = true;
  int64_t group = 0;       // columns that share a scale; 0: all of a row
  float static_scale = 0;  // 0: found here
  int static_zero = 0;     // static asymmetric: the code of 0
  int64_t num_kept = 0;
  const int32_t* kept = nullptr;  // [num_kept] ascending
  int64_t num_super = 0;
  const int32_t* super = nullptr;  // [num_super] columns
  float spike_threshold = 0;       // 0: no run-time test
  int64_t max_spike_rows = 0;
  int8_t* q = nullptr;                // [m, k]
  float* scale = nullptr;             // [m] (static: filled too), or [m, k/group]
  int32_t* zero = nullptr;            // [m] of asymmetric 8 bits; may be null otherwise
  float* kept_x = nullptr;            // [m, num_kept]
  float* super_x = nullptr;           // [m, num_super]
  int32_t* spike_rows = nullptr;      // [max_spike_rows] ascending
  int64_t* num_spike_rows = nullptr;  // out; may be null without a threshold
  int64_t* num_missed = nullptr;      // out, added to; may be null
  int64_t* num_saturated = nullptr;   // out, added to; may be null
};
// InvalidArgument: an empty shape, a missing buffer, a column outside [0, K), a static scale that is negative
// or not finite, a group that does not divide K or that is combined with a static scale or 8 asymmetric bits.
absl::Status Supports(const Params& params);
// Plain loops: the definition.
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::quantize_s8r_f32
