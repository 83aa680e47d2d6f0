// matmul_f32_f32_s4g on a GPU (W4A16): float rows times 4-bit codes with a scale and a zero point a group.
//   Y[m,n] = sum_g w_scale[n,g] * (sum_{k in g} x[m,k] * (code[n,k] - zero[n,g])) + kept columns + bias + ...
// Layout    tiles of 16 channels x 64 columns: 16 bytes a lane are four left operands of mma.m16n8k16; word j
//           holds columns 16 j to 16 j + 15, element i of the lane's eight in nibble i / 2 + 4 (i % 2).
//           Scales and zero points lie in the order in which a warp reads them: [row tile][column tile][16].
// Method    up to 4 rows: integers on the tensor cores, x in three digits (kernels/cuda/digit_rows.cuh).
//           More: codes become bf16 integers by two logical operations and a subtraction; x is split into two
//           bf16 values whose sum it is to 2^-17. So products are exact and sums are float32. Warps of a
//           block share out K; their sums are added in order. 2 to 16 rows on sm_90: blocks of a cluster
//           share out K as well, and split x once for many channels (kernels/cuda/cluster_rows.cuh).
// Moves     0.58 bytes a weight with groups of 64 (0.64 with zero points); bound by them for few rows.
// Requires  K a multiple of 64, groups of a multiple of 64.
// Exact     to float32 rounding and 2^-17 of each |x * w|; in digits 2^-22 of the largest |x| of 64 columns.
// Targets   sm_80 (overlapping its predecessor's end on sm_90: the first weights are on their way by then),
//           sm_90.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/simt_matmul.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {

inline constexpr int64_t kTileRows = 16, kTileColumns = 64;

constexpr bool Supports(int64_t k, int64_t group) {
  return k % kTileColumns == 0 && group % kTileColumns == 0;
}

// What a linear's w, w_scale and w_zero point to; rows behind n have scale 0.
struct Packed {
  std::vector<uint32_t> codes;  // [row tiles][column tiles][32 lanes][4]
  std::vector<float> scales;    // [row tiles][column tiles][16]
  std::vector<uint8_t> zeros;   // as scales; empty: codes around 0
};
struct PackParams {
  int64_t n = 0, k = 0, group = 0;
  absl::Span<const int8_t> codes;  // [n, k], -8 to 7
  absl::Span<const float> scales;  // [n, k / group]
  absl::Span<const int8_t> zeros;  // as scales, in the codes' range; or empty
};
Packed Pack(const PackParams& params, ThreadPool* pool = nullptr);

// `rows` of params is not used.
absl::Status RunCuda(const cuda::SimtParams& params, const cuda::Stream& stream);  // sm_80
// On sm_90, any number of rows, 16 at a time: clusters of blocks share out K and keep their part of x in
// shared memory, where FitsHopper() says that it fits.
bool FitsHopper(int64_t k);
absl::Status RunHopper(cuda::SimtParams params, const cuda::Stream& stream);
// Whichever is faster on this device.
inline constexpr int64_t kClusterRows = 2, kMaxClusterRows = 16;
inline absl::Status RunCuda(const cuda::SimtParams& params, const cuda::DeviceInfo& device,
                            const cuda::Stream& stream) {
  const bool some = params.m >= kClusterRows && params.m <= kMaxClusterRows;
  return device.sm == 90 && some && FitsHopper(params.k) ? RunHopper(params, stream)
                                                         : RunCuda(params, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
