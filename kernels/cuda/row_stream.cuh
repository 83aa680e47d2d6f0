// Products of very few rows with row-major weights, bound by the bytes of W: a block's shared memory holds x,
// a warp takes some neighbouring channels and reads their rows side by side, 16 bytes a lane and channel at a
// time. Weights go from memory to registers, several steps under way, the first of them before x is there;
// other blocks of the multiprocessor, and the next kernel's, hide what a block waits for.
#pragma once

#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/outlier_tail_cuda.h"

namespace spikefold::kernels::cuda::row_stream {

inline constexpr int kWarps = 8, kThreads = kWarps * kWarp;
inline constexpr int kLaneBytes = 16, kStepBytes = kWarp * kLaneBytes;  // of a channel

// Blocks of a launch whose warps take `channels` each.
inline int64_t BlocksOf(const LinearGroup& linears, int64_t channels) {
  int64_t blocks = 0;
  for (int i = 0; i < linears.count; ++i) blocks += CeilDiv(linears.linear[i].n, kWarps * channels);
  return blocks;
}

// The channels of a warp, and what is under way of them.
template <int kChannels, int kDepth>
class Channels {
 public:
  // Of the n channels at `w`, each of `bytes` bytes (a multiple of 16), those from n0 on. A channel behind
  // the last reads the last again: its sum is not used.
  __device__ Channels(const void* w, int64_t n, int64_t n0, int64_t bytes)
      : lane_byte_(static_cast<int>(threadIdx.x) % kWarp * kLaneBytes), bytes_(static_cast<int>(bytes)) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) from_[c] = static_cast<const char*>(w) + min(n0 + c, n - 1) * bytes;
#pragma unroll
    for (int d = 0; d < kDepth; ++d) Load(d, words_[d]);
  }
  // use(step, words): the lane's bytes from step * kStepBytes + 16 * lane on, zeros behind the last, of each
  // channel.
  template <typename Use>
  __device__ void Stream(Use use) {
    const int steps = (bytes_ + kStepBytes - 1) / kStepBytes;
#pragma unroll 1
    for (int step0 = 0; step0 < steps; step0 += kDepth) {
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        if (step0 + d >= steps) break;
        use(step0 + d, words_[d]);
        Load(step0 + d + kDepth, words_[d]);
      }
    }
  }

 private:
  __device__ void Load(int step, uint4 (&to)[kChannels]) {
    const int at = step * kStepBytes + lane_byte_;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      to[c] = at < bytes_ ? LoadStreaming16(from_[c] + at) : make_uint4(0, 0, 0, 0);
    }
  }
  int lane_byte_, bytes_;
  const char* from_[kChannels];
  uint4 words_[kDepth][kChannels];
};

// Floats of shared memory that a row of k values takes, where a step has `columns` of them.
constexpr int64_t RowFloats(int64_t k, int64_t columns) { return CeilDiv(k, columns) * columns; }
// A row of floats as lanes read it: four f of lane l's kFours in a step at [step][f][l], zeros behind k, a
// multiple of 4. By all threads.
template <int kFours>
__device__ inline void StageRow(const float* x, int k, float4* to) {
  constexpr int kOfStep = kFours * kWarp;
  const int all = (k + 4 * kOfStep - 1) / (4 * kOfStep) * kOfStep;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < all; i += kThreads) {
    const int in_step = i % kOfStep;
    to[i - in_step + in_step % kFours * kWarp + in_step / kFours] =
        x != nullptr && i * 4 < k ? reinterpret_cast<const float4*>(x)[i] : make_float4(0, 0, 0, 0);
  }
}

template <typename T>
__device__ inline T WarpSum(T v) {
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}

}  // namespace spikefold::kernels::cuda::row_stream
