// Tiles of matmul_f32_s8r_u4h_cuda.h as the left operand of wgmma.
#pragma once

#include "kernels/cuda/tma.cuh"
#include "kernels/cuda/wgmma.cuh"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_u4h {

// Two left operands of a warpgroup: half of a tile's columns.
struct Operands {
  uint32_t a[2][4];
};

// Four codes: with b = factor * (zero + 8), factor * nibble - b + 128 lies in 1 to 255 for each, so that what
// their bytes borrow from each other on the way is given back. Unsigned, 128 too large, or signed.
template <bool kBiased>
__device__ inline uint32_t Codes(uint32_t nibbles, uint32_t factor, uint32_t offset) {
  const uint32_t biased = (nibbles & 0x0f0f0f0fu) * factor + offset;
  return kBiased ? biased : biased ^ 0x80808080u;
}
__device__ inline uint32_t OffsetOf(uint32_t b) { return 0x80808080u - b * 0x01010101u; }

// What a lane unpacks of half of a tile's columns: nibbles, then the factors and offsets of two channels.
struct Half {
  uint4 words;
  uint32_t upper, upper_b, lower, lower_b;
};
// By the warps of a warpgroup: half `half` of the tile at `tile` in shared memory.
__device__ inline Half LoadHalf(const char* tile, int half) {
  const int warp = static_cast<int>(threadIdx.x) % 128 / 32, lane = static_cast<int>(threadIdx.x) % 32;
  // Bytes one by one: that takes nothing of the arithmetic, which is what is short.
  const auto* const factors =
      reinterpret_cast<const uint8_t*>(tile + kCodeBytes + ((warp * 8 + lane / 4) * 2 + half) * 4);
  return {.words = *reinterpret_cast<const uint4*>(tile + ((warp * 2 + half) * 32 + lane) * 16),
          .upper = factors[0],
          .upper_b = factors[1],
          .lower = factors[2],
          .lower_b = factors[3]};
}
template <bool kBiased>
__device__ inline void Unpack(const Half& half, Operands& to) {
  const uint4& words = half.words;
  const uint32_t upper = half.upper, upper_at = OffsetOf(half.upper_b);
  const uint32_t lower = half.lower, lower_at = OffsetOf(half.lower_b);
  to.a[0][0] = Codes<kBiased>(words.x, upper, upper_at);
  to.a[0][1] = Codes<kBiased>(words.y, lower, lower_at);
  to.a[0][2] = Codes<kBiased>(words.x >> 4, upper, upper_at);
  to.a[0][3] = Codes<kBiased>(words.y >> 4, lower, lower_at);
  to.a[1][0] = Codes<kBiased>(words.z, upper, upper_at);
  to.a[1][1] = Codes<kBiased>(words.w, lower, lower_at);
  to.a[1][2] = Codes<kBiased>(words.z >> 4, upper, upper_at);
  to.a[1][3] = Codes<kBiased>(words.w >> 4, lower, lower_at);
}

// Unpacks half `half` of a tile and starts its multiplications; `add`: to the sums. `operands` are not
// written before they end. `x`: the descriptor of 128 columns.
template <bool kBiased, int kCount>
__device__ inline void MultiplyHalf(uint32_t (&acc)[kCount], Operands& operands, const Half& codes, int half,
                                    uint64_t x, bool add) {
  Unpack<kBiased>(codes, operands);
#pragma unroll
  for (int k = 0; k < 2; ++k) cuda::HoldRegisters(operands.a[k]);
  cuda::WarpgroupFence();
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if constexpr (kBiased) {
      cuda::WgmmaU8S8(acc, operands.a[k], x + 4 * half + 2 * k, add || k > 0);
    } else {
      cuda::WgmmaS8(acc, operands.a[k], x + 4 * half + 2 * k, add || k > 0);
    }
  }
}

// Where the tiles of kGroups warpgroups from channel n0 on lie, and their bytes, less at the end.
template <int kGroups>
__device__ inline int TileBytes(const cuda::Linear& w, int n0) {
  const int tiles = static_cast<int>((w.n + kTileRows - 1) / kTileRows) - n0 / static_cast<int>(kTileRows);
  return max(min(kGroups, tiles), 0) * static_cast<int>(kTileBytes);
}
template <int kGroups>
__device__ inline void LoadTiles(const cuda::Linear& w, int n0, int step, uint32_t to, uint32_t barrier) {
  const int64_t row_tiles = (w.n + kTileRows - 1) / kTileRows;
  const int64_t tile = step * row_tiles + n0 / kTileRows;
  const int bytes = TileBytes<kGroups>(w, n0);
  if (bytes > 0) cuda::LoadBytes(to, static_cast<const char*>(w.w) + tile * kTileBytes, bytes, barrier);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_u4h
