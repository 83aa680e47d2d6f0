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

inline constexpr int kFewChannels = 16;
inline constexpr int kFewWarps = 8;
inline constexpr int kFewStep = 128;  // bytes of K that a warp takes at a time: whole cache lines

struct FewRowsOperands {
  int64_t m = 0, n = 0;
  int64_t row_bytes = 0;  // of x and w, a multiple of 16; bytes behind K are zero
  const int8_t* x = nullptr;
  const int8_t* w = nullptr;
};

// Sums of channels n0 ... n0 + 15 and rows m0 ... m0 + 8 * kTiles - 1: finish(m, n, sum) for those that
// exist. `partial` is [kFewWarps][16 * 8 * kTiles] in shared memory. All kFewWarps warps take part.
template <int kTiles, typename Finish>
__device__ void FewRowsSums(const FewRowsOperands& p, int64_t m0, int64_t n0, int32_t* partial,
                            Finish finish) {
  constexpr int kRows = 8 * kTiles, kOutputs = kFewChannels * kRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int64_t last_n = p.n - 1, last_m = p.m - 1;
  // Rows beyond the end read the last one; their sums are not used.
  const int8_t* w_rows[2] = {p.w + (n0 + g < last_n ? n0 + g : last_n) * p.row_bytes,
                             p.w + (n0 + g + 8 < last_n ? n0 + g + 8 : last_n) * p.row_bytes};
  int32_t acc[kTiles][4] = {};
  for (int64_t k = warp * kFewStep; k < p.row_bytes; k += kFewWarps * kFewStep) {
    uint4 a[2][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t at = k + half * 64 + t * 16;
      const bool inside = at < p.row_bytes;
#pragma unroll
      for (int r = 0; r < 2; ++r)
        a[half][r] = inside ? LoadStreaming16(w_rows[r] + at) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t at = k + half * 64 + t * 16;
      const bool inside = at < p.row_bytes;
      const uint32_t first[4] = {a[half][0].x, a[half][1].x, a[half][0].y, a[half][1].y};
      const uint32_t second[4] = {a[half][0].z, a[half][1].z, a[half][0].w, a[half][1].w};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int64_t m = m0 + tile * 8 + g;
        const uint4 b =
            inside ? __ldg(reinterpret_cast<const uint4*>(p.x + (m < last_m ? m : last_m) * p.row_bytes + at))
                   : make_uint4(0, 0, 0, 0);
        MmaS8(acc[tile], first, b.x, b.y);
        MmaS8(acc[tile], second, b.z, b.w);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int channel = g + e / 2 * 8, row = tile * 8 + t * 2 + e % 2;
      partial[warp * kOutputs + row * kFewChannels + channel] = acc[tile][e];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kOutputs; i += kFewWarps * kWarp) {
    int32_t sum = 0;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) sum += partial[w * kOutputs + i];
    const int64_t m = m0 + i / kFewChannels, n = n0 + i % kFewChannels;
    if (m < p.m && n < p.n) finish(m, n, sum);
  }
}

}  // namespace spikefold::kernels::cuda
