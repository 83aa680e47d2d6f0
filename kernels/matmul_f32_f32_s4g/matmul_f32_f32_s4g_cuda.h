// matmul_f32_f32_s4g on a GPU (W4A16): float rows times 4-bit codes with a scale and a zero point a group.
//   Y[m,n] = sum_g w_scale[n,g] * (sum_{k in g} x[m,k] * (code[n,k] - zero[n,g])) + kept columns + bias + ...
// Layout    tiles of 16 channels x 64 columns: 16 bytes a lane are four left operands of mma.m16n8k16; word j
//           of lane 4 g + t holds columns 16 j + 4 t to 16 j + 4 t + 3 of channels g and g + 8 (PackLane says
//           in which nibbles). Scales and zero points: [row tile][column tile][8 channels g][g, g + 8].
// Method    17 to 512 rows on sm_90a: x becomes f16 once, under a power of two for each row; codes become f16
//           in registers, times their scales, under a power of two for each channel, for wgmma of up to 128
//           rows at once (matmul_f32_f32_s4g_few_sm90.cu).
//           Still more: the weights of a linear become f16 in scratch memory, and f16 is multiplied
//           (kernels/cuda/wide_rows.cuh).
//           Clusters (sm_90, up to 16 rows; kernels/cuda/cluster_rows.cuh): one or two rows are integers on
//           the tensor cores, x in three digits (matmul_f32_f32_s4g_digits_sm90.cu). Of more rows x becomes
//           f16 once for many channels, under a power of two for each row and part of K, up to 4 rows in two
//           parts, more rows in one; zero points go through sums of the f16 values.
//           Elsewhere up to 4 rows: digits, too (digit_rows.cuh). More: codes become bf16 integers; x is
//           split into two bf16 values. Warps of a block share out K.
// Precision of x                relative to x       or to the largest |x|
//           digits                                  2^-22 of 64 columns, or 2^-127
//           clusters, 3 and 4 rows    2^-22         2^-40 of a row's part of K
//           clusters, more rows       2^-11         2^-40 of a row's part of K; bf16 has 2^-8
//           more than 16 rows, sm_90a 2^-11         2^-39 of a row; weights and, up to 512 rows, their scales
//                                                   and these times zero points too; weights to 2^-17 of a
//                                                   channel's largest or, of more rows, 2^-39
//           two bf16 parts            2^-17
//           Clusters of 3 rows and more add to that 2^-17 of the sizes of x times (code + zero + 16) at most:
//           a tensor core cuts the 17 numbers that it adds to the bits of the largest, 4 times for 64
//           columns, for codes and for the sums of x.
// Moves     0.56 bytes a weight with groups of 64 (0.58 with zero points); bound by them for few rows. For
// many
//           rows each weight is written and read once more, as f16.
// Requires  K a multiple of 64, groups of a multiple of 64.
// Targets   sm_80 (overlapping its predecessor's end on sm_90: the first weights are on their way by then),
//           sm_90.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "kernels/cuda/ceil_div.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/few_rows_plan.h"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/cuda/simt_matmul.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {

inline constexpr int64_t kTileRows = 16, kTileColumns = 64;

constexpr bool Supports(int64_t k, int64_t group) {
  return k % kTileColumns == 0 && group % kTileColumns == 0;
}

// What a linear's w, w_scale, w_zero and w_unit point to, in whole pairs of row tiles; rows behind n have
// scale 0.
struct Packed {
  std::vector<uint32_t> codes;  // [row tiles][column tiles][32 lanes][4]
  std::vector<float> scales;    // [row tiles][column tiles][8][2]: channels g and g + 8
  std::vector<uint8_t> zeros;   // as scales; empty: codes around 0
  // [row tiles][16]: the power of two under which a channel's codes times its scales become f16. Its largest
  // scale is 2^-10 to 2^-9 of it, unless that is 0, not finite, or from 2^117 on or below 2^-109.
  std::vector<float> units;
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
// On sm_90, any number of rows, 16 at a time or as many as fit: clusters of blocks share out K and keep their
// part of x in shared memory, where FitsHopper() says that 4 rows do, or the one or two that there are.
// InvalidArgument: they do not.
bool FitsHopper(const cuda::SimtParams& params);
absl::Status RunHopper(cuda::SimtParams params, const cuda::Stream& stream);
// On sm_90a, any number of rows: up to 128 share a reading of W. `scratch`: ScratchBytes() of device memory,
// 16-byte aligned. InvalidArgument: a plan of other splits than it names, of other than 1 or 2
// warpgroups (2 with 128 rows) and 32, 64 or 128 rows, or of one stage.
constexpr size_t ScratchBytes(int64_t m, int64_t k) {
  return static_cast<size_t>(m * k) * sizeof(uint16_t) + static_cast<size_t>(m) * sizeof(float);
}
absl::Status RunFew(const cuda::SimtParams& params, void* scratch, const cuda::few::Plan& plan,
                    const cuda::DeviceInfo& device, const cuda::Stream& stream);

// On sm_90a, any number of rows: weights are unpacked to f16 in `scratch`, ManyScratchBytes() of device
// memory (x in f16, and 128 MiB of weights at the most), 256-byte aligned.
size_t ManyScratchBytes(const cuda::SimtParams& params);
absl::Status RunMany(const cuda::SimtParams& params, void* scratch, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream, const cuda::pingpong::Plan& tiles = {});

// What is faster on an H200, of 40 shapes from 576 x 576 to 57344 x 8192. What all paths but kDirect prepare
// is not worth it for small matrices; unpacking all weights pays from some hundred rows on (from 512 for
// 28,672 channels, from 1024 for 4096 of 4096 columns, later with more columns), for few columns from 257.
enum class Path { kDirect, kClusters, kFew, kMany };
inline Path PathOf(const cuda::SimtParams& params, const cuda::DeviceInfo& device) {
  constexpr int64_t kMaxClusterRows = 16, kMaxDirectRows = 64, kMaxFewRows = 512;
  const int64_t m = params.m, k = params.k;
  if (device.sm != 90 || m == 0) return Path::kDirect;
  int64_t n = 0;
  for (int i = 0; i < params.linears.count; ++i) n += params.linears.linear[i].n;
  if (m <= kMaxClusterRows) {
    const bool small = m > 8   ? k <= 768 && n * k <= int64_t{2} << 20
                       : m > 4 ? k <= 2048 && n <= kTileRows * device.num_sms  // a block a multiprocessor
                               : false;
    return !small && FitsHopper(params) ? Path::kClusters : Path::kDirect;
  }
  if (m <= kMaxDirectRows) {
    constexpr int64_t kBlockRows = 32, kBlockChannels = 32;  // of kDirect
    const int64_t blocks = cuda::CeilDiv(n, kBlockChannels) * cuda::CeilDiv(m, kBlockRows);
    const double direct = static_cast<double>(cuda::CeilDiv(blocks, int64_t{device.num_sms})) *
                          (1.6 + 0.0028 * static_cast<double>(k));  // microseconds
    return direct < (m <= kBlockRows ? 8 : 10) ? Path::kDirect : Path::kFew;
  }
  const bool narrow = m > 256 && k <= 1536 && n * k <= int64_t{8} << 20;
  return m > kMaxFewRows || narrow ? Path::kMany : Path::kFew;
}
// Bytes of device memory that a path works in.
inline size_t ScratchBytes(Path path, const cuda::SimtParams& params) {
  return path == Path::kMany  ? ManyScratchBytes(params)
         : path == Path::kFew ? ScratchBytes(params.m, params.k)
                              : 0;
}
inline absl::Status RunCuda(const cuda::SimtParams& params, Path path, void* scratch,
                            const cuda::DeviceInfo& device, const cuda::Stream& stream) {
  switch (path) {
    case Path::kMany:
      return RunMany(params, scratch, device, stream);
    case Path::kFew:
      return RunFew(params, scratch, {}, device, stream);
    case Path::kClusters:
      return RunHopper(params, stream);
    default:
      return RunCuda(params, stream);
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
