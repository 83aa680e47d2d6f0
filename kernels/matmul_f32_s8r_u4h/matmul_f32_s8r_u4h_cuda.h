// matmul_f32_s8r_u4h on a GPU (W4A8 in two integer levels): INT8 rows with one scale each times 4-bit codes
// whose groups have a whole factor under one scale a channel (kernels/runtime/two_level.h).
//   Y[m,n] = float(sum_k xq[m,k] * w8[n,k]) * x_scale[m] * w_scale[n] + kept columns + bias
//   w8[n,k] = factor[n,g] * (code[n,k] - zero[n,g]), in -127 to 127
// Layout    x rows as matmul_f32_s8r_s8c_cuda.h; w_scale [n]. w: tiles of 64 channels x 128 columns, 4352
// bytes
//           each, [column tile][row tile]; rows and columns behind the last are 0. A tile is
//             codes    [4 warps][2 halves of the columns][32 lanes][16 bytes]: 16 channels x 64 columns, word
//             2 i
//                      + j of lane 4 g + t: byte b has the codes + 8 of channel g + 8 j, columns 32 i + 4 t +
//                      b (low) and 16 behind (high): two left operands of wgmma m64nNk32
//             factors  [4 warps][8 channels g][2 halves][4 bytes]: factor and factor * (zero + 8) of channel
//                      g, then of g + 8
// Method    a warpgroup of 64 channels makes four codes of INT8 from four nibbles by a multiply-add and an
//           XOR, in registers from which wgmma takes its left operand; x is the right one. Up to 64 rows:
//           few_rows_wgmma.cuh, bound by the bytes of W. More: tiles that two warpgroups of a persistent
//           block make together, by turns or each by itself.
// Moves     0.53 bytes a weight.
// Requires  groups of a multiple of 64 columns.
// Exact     what matmul_f32_s8r_s8c gives of the codes w8, on the same terms: bit for bit the CPU's, but for
//           the kept columns of RunMany(). Super weights are added by AddSuperWeights.
// Targets   sm_90a.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/few_rows_plan.h"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/cuda/stream.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/numeric.h"

namespace spikefold::kernels::matmul_f32_s8r_u4h {

inline constexpr int64_t kTileRows = 64, kTileColumns = 128, kTileBytes = 4352;
inline constexpr int64_t kFactorColumns = 64;  // that share a factor in a tile
inline constexpr int64_t kCodeBytes = 4096;    // of a tile, its factors follow

// Where a nibble lies, and the factor that belongs to it, within their tile.
struct Place {
  int64_t code = 0, factor = 0;
  int shift = 0;
};
SF_HOST_DEVICE constexpr Place PlaceOf(int64_t row, int64_t column) {
  const int64_t warp = row / 16, g = row % 8, j = row % 16 / 8;
  const int64_t half = column / kFactorColumns, i = column % kFactorColumns / 32, c = column % 32;
  const int64_t lane = 4 * g + c % 16 / 4, word = 2 * i + j;
  return {.code = ((warp * 2 + half) * 32 + lane) * 16 + word * 4 + c % 4,
          .factor = kCodeBytes + ((warp * 8 + g) * 2 + half) * 4 + 2 * j,
          .shift = static_cast<int>(c / 16 * 4)};
}

inline bool Supports(int64_t group, const cuda::DeviceInfo& device) {
  return device.sm == 90 && group > 0 && group % kFactorColumns == 0;
}

struct PackParams {
  int64_t n = 0, k = 0, group = 0;
  absl::Span<const int8_t> codes;     // [n, k], -8 to 7
  absl::Span<const uint8_t> factors;  // [n, k / group], 1 to 16
  absl::Span<const int8_t> zeros;     // as factors, in the codes' range; or empty
};
// What a linear's w points to.
std::vector<uint8_t> Pack(const PackParams& params, ThreadPool* pool = nullptr);
// w8 of a packed matrix at a place; n and k are the matrix's.
int CodeAt(absl::Span<const uint8_t> packed, int64_t n, int64_t row, int64_t column);

using Params = matmul_f32_s8r_s8c::CudaParams;
// Up to 64 rows, at most 128 kept columns (with kept_rows of x and of the linears).
bool FitsFew(const Params& params, const cuda::DeviceInfo& device);
absl::Status RunFew(const Params& params, const cuda::few::Plan& plan, const cuda::DeviceInfo& device,
                    const cuda::Stream& stream);

// Tiles of many rows and channels: 256 x 128, which both warpgroups of a block make together, 256 x 64, which
// they take by turns, or one of the others, of which each makes its own.
inline constexpr cuda::pingpong::Plan kManyTiles[] = {{256, 128}, {256, 64}, {128, 128}, {128, 64}, {64, 64}};
// What takes least, in steps of a tile of 128 x 128, as measured on an H200 from 65 to 4096 rows. Nothing is
// multiplied while the outputs of 256 x 128 are made; a warpgroup with tiles of its own whose neighbour has
// none is not twice as fast.
inline cuda::pingpong::Plan PlanMany(int64_t m, int64_t k, const cuda::LinearGroup& linears, int num_sms) {
  const auto steps = static_cast<double>(cuda::CeilDiv(k, kTileColumns));
  constexpr double kOdd = 0.35;
  return cuda::pingpong::LeastOf({{{256, 128}, 1.6 * steps + 6},
                                  {{256, 64}, steps},
                                  {{128, 128}, steps, kOdd},
                                  {{128, 64}, 0.6 * steps, kOdd},
                                  {{64, 64}, 0.51 * steps, kOdd}},
                                 m, linears, num_sms);
}
// Any number of rows, read kept_rows. `tiles`: of kManyTiles, or none: PlanMany().
absl::Status RunMany(const Params& params, const cuda::pingpong::Plan& tiles, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream);
inline absl::Status RunHopper(const Params& params, const cuda::DeviceInfo& device,
                              const cuda::Stream& stream) {
  return FitsFew(params, device) ? RunFew(params, {}, device, stream) : RunMany(params, {}, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_u4h
