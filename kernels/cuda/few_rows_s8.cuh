// Products of codes for few rows of x: bound by reading W once. A block takes 16 channels; its warps share
// out K. Codes go from global memory to the registers of mma.sync, W as its left operand, x as its right,
// without shared memory: a lane reads 16 consecutive codes of its row and hands them to two multiplications
// as if they lay where the instruction expects them. Both operands are permuted alike, and integers may be
// added in any order.
#pragma once

#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
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
// those that exist. `partial` is [kFewPartials] in shared memory. All kFewWarps warps take part. For a kernel
// launched with Shape::overlaps: waits for the inputs itself.
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
  const auto x_row = [&](int tile) {
    const int64_t m = m0 + tile * 8 + g;
    return p.x + (m < p.m ? m : p.m - 1) * p.row_bytes + t * 16;
  };
  // What a lane holds of 64 bytes of K: codes of W and of x.
  struct Operands {
    uint4 w[2 * kBlocks], x[kTiles];
  };
  const uint4 zero = make_uint4(0, 0, 0, 0);
  const auto load_w = [&](Operands& o, int64_t at) {
    const bool inside = at + t * 16 < p.row_bytes;
#pragma unroll
    for (int r = 0; r < 2 * kBlocks; ++r) o.w[r] = inside ? LoadStreaming16(w_row(r) + at) : zero;
  };
  const auto load_x = [&](Operands& o, int64_t at) {
    const bool inside = at + t * 16 < p.row_bytes;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) o.x[tile] = inside ? LoadCached16(x_row(tile) + at) : zero;
  };
  const auto load = [&](Operands& o, int64_t at) {
    load_w(o, at);
    load_x(o, at);
  };
  int32_t acc[kBlocks][kTiles][4] = {};
  const auto multiply = [&](const Operands& o) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        const uint4 &low = o.w[2 * i], &high = o.w[2 * i + 1];  // channels g and g + 8
        const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
        MmaS8(acc[i][tile], first, o.x[tile].x, o.x[tile].y);
        MmaS8(acc[i][tile], second, o.x[tile].z, o.x[tile].w);
      }
    }
  };
  // The next half line is under way while one is multiplied.
  constexpr int64_t kHalf = kFewStep / 2;
  const auto next = [&](int64_t at) {
    return at % kFewStep == 0 ? at + kHalf : at - kHalf + kFewWarps * kFewStep;
  };
  int64_t at = warp * kFewStep;
  Operands even, odd;
  load_w(even, at);  // does not depend on the kernel before
  LetNextStart();
  WaitForInputs();
  load_x(even, at);
  while (at < p.row_bytes) {
    load(odd, next(at));
    multiply(even);
    at = next(next(at));
    load(even, at);
    multiply(odd);
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
