// matmul_bf16_s8r_s8c: W8A8 on Hopper's tensor cores, the outlier columns as further stages of the same loop.
//   Y[m,n] = bf16(f32(sum_k xq[m,k]*wq[n,k]) * x_scale[m] * w_scale[n] + sum_c kept_x[m,c]*kept_w[n,c]
//                 + bias[n])
//
// Layout    xq [M, K], wq [N, K] row-major codes; kept_x [M, r], kept_w [N, r] row-major bf16, r padded with
//           zeros to a multiple of 64. Kept columns are code 0 in xq and wq, so K is whole and nothing is
//           gathered.
// Requires  K and every stride a multiple of 16; data 16-byte aligned; K < 131072. Any M, N >= 1; Y's stride
//           16-byte aligned (N a multiple of 8).
// Moves     N*K + M*K + 2*M*N bytes and 2*r*(M + N); bound by memory below M = 163 on an H200, by wgmma
//           above.
// Exact     the int32 sums are exact. f32(sum) is rounded once, then * x_scale, then * w_scale; the tail and
//           the bias are added in f32 in an order that is fixed but not specified; one rounding to bf16.
// Targets   sm_90a: wgmma; 9 to 32 rows, and up to 64 where that is faster (pingpong::BeatsFewRows), with W
//           on its left and kept columns as FMAs; sm_80: mma.sync fed from memory, for fewer rows and older
//           chips.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/few_rows_plan.h"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {

inline constexpr int64_t kKeptStep = 64;  // r is padded to a multiple of it

struct Params {  // device addresses, but for Reference
  int64_t m = 0, n = 0, k = 0;
  const int8_t* x = nullptr;         // [m, k]
  const float* x_scale = nullptr;    // [m]
  const int8_t* w = nullptr;         // [n, k]
  const float* w_scale = nullptr;    // [n]
  const float* bias = nullptr;       // [n] or null
  int64_t num_kept = 0;              // r, a multiple of 64
  const uint16_t* kept_x = nullptr;  // [m, r] bf16
  const uint16_t* kept_w = nullptr;  // [n, r] bf16
  uint16_t* y = nullptr;             // [m, n] bf16
  // By default chosen by shape and device.
  cuda::pingpong::Plan tiles;  // of sm_90a's kernel for many rows
  cuda::few::Plan plan;        // of sm_90a's kernel for few rows, if there is one
  bool sm80 = false;           // the kernel of other cards
};
// Unimplemented: another chip, K too large. InvalidArgument: an empty shape, a stride that is not aligned.
absl::Status Supports(const Params& params, const cuda::DeviceInfo& device);
// Plain loops in int64 and double, on host addresses: the definition.
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, const cuda::DeviceInfo& device, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
