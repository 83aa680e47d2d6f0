// Products of codes for few rows of x: bound by reading W once. A block takes 16 channels; its warps share
// out K. Codes go from global memory to the registers of mma.sync, W as its left operand, x as its right,
// without shared memory: a lane reads 16 consecutive codes of its row and hands them to two multiplications
// as if they lay where the instruction expects them. Both operands are permuted alike, and integers may be
// added in any order.
#pragma once

#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"

namespace spikefold::kernels::cuda {

inline constexpr int kFewChannels = 16;  // of one left operand; a warp takes kBlocks of them against each x
inline constexpr int kFewWarps = 8;
inline constexpr int kFewStep = 128;  // bytes of K that a warp takes at a time: whole cache lines

struct FewRowsOperands {
  int64_t m = 0, n = 0;
  int64_t row_bytes = 0;  // of x and w, a multiple of 16; bytes behind K are zero
  const int8_t* x = nullptr;
  const int8_t* w = nullptr;
};

// int32 in shared memory that the sums of a block of threads pass through.
template <int kTiles, int kBlocks>
inline constexpr int kFewPartials = kFewWarps* kFewChannels* kBlocks * 8 * kTiles;

// Sums of channels n0 ... n0 + 16 * kBlocks - 1 and rows m0 ... m0 + 8 * kTiles - 1: finish(m, n, sum) for
// those that exist. `partial` is [kFewPartials] in shared memory. All kFewWarps warps take part.
template <int kTiles, int kBlocks, typename Finish>
__device__ void FewRowsSums(const FewRowsOperands& p, int64_t m0, int64_t n0, int32_t* partial,
                            Finish finish) {
  constexpr int kRows = 8 * kTiles, kChannels = kFewChannels * kBlocks, kOutputs = kChannels * kRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  // Rows beyond the end read the last one; their sums are not used.
  const auto w_row = [&](int r) {
    const int64_t n = n0 + g + r * 8;
    return p.w + (n < p.n ? n : p.n - 1) * p.row_bytes + t * 16;
  };
  const auto load_w = [&](uint4(&a)[2 * kBlocks], int64_t at) {
#pragma unroll
    for (int r = 0; r < 2 * kBlocks; ++r) {
      a[r] = at + t * 16 < p.row_bytes ? LoadStreaming16(w_row(r) + at) : make_uint4(0, 0, 0, 0);
    }
  };
  int32_t acc[kBlocks][kTiles][4] = {};
  const auto multiply = [&](const uint4(&a)[2 * kBlocks], int64_t at) {
    const bool inside = at + t * 16 < p.row_bytes;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int64_t m = m0 + tile * 8 + g;
      const int8_t* x = p.x + (m < p.m ? m : p.m - 1) * p.row_bytes + at + t * 16;
      const uint4 b = inside ? __ldg(reinterpret_cast<const uint4*>(x)) : make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        const uint32_t first[4] = {a[2 * i].x, a[2 * i + 1].x, a[2 * i].y, a[2 * i + 1].y};
        const uint32_t second[4] = {a[2 * i].z, a[2 * i + 1].z, a[2 * i].w, a[2 * i + 1].w};
        MmaS8(acc[i][tile], first, b.x, b.y);
        MmaS8(acc[i][tile], second, b.z, b.w);
      }
    }
  };
  // The next half line is under way while one is multiplied.
  constexpr int64_t kHalf = kFewStep / 2;
  const auto next = [&](int64_t at) {
    return at % kFewStep == 0 ? at + kHalf : at - kHalf + kFewWarps * kFewStep;
  };
  int64_t at = warp * kFewStep;
  uint4 a[2][2 * kBlocks];
  load_w(a[0], at);
  while (at < p.row_bytes) {
    load_w(a[1], next(at));
    multiply(a[0], at);
    at = next(at);
    load_w(a[0], next(at));
    multiply(a[1], at);
    at = next(at);
  }
#pragma unroll
  for (int i = 0; i < kBlocks; ++i) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int channel = i * kFewChannels + g + e / 2 * 8, row = tile * 8 + t * 2 + e % 2;
        partial[warp * kOutputs + row * kChannels + channel] = acc[i][tile][e];
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kOutputs; i += kFewWarps * kWarp) {
    int32_t sum = 0;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) sum += partial[w * kOutputs + i];
    const int64_t m = m0 + i / kChannels, n = n0 + i % kChannels;
    if (m < p.m && n < p.n) finish(m, n, sum);
  }
}

}  // namespace spikefold::kernels::cuda
