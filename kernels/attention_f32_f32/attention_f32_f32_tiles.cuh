// What the attention kernels of the CUDA cores share: 32 query rows and 32 keys of a head in shared memory,
// and their products. A block of 256 threads, 8 of them a query row.
#pragma once

#include <cstdint>

namespace spikefold::kernels::attention_f32_f32 {

inline constexpr int kRows = 32, kKeys = 32;
inline constexpr int kThreads = 256;
inline constexpr int kRowThreads = kThreads / kRows;
inline constexpr int kKeysPerThread = kKeys / kRowThreads;
inline constexpr int kPad = 4;  // floats behind each row in shared memory: neighbours fall into other banks

__device__ inline float4 Load4(const float* p) { return *reinterpret_cast<const float4*>(p); }

// Rows [first, first + 32) of head h of from [end, heads, d]: to [32][d + kPad]; zeros behind `end`. By the
// whole block.
__device__ inline void LoadTile(float* to, const float* from, int64_t first, int64_t end, int64_t heads,
                                int64_t h, int d) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * d / 4; i += kThreads) {
    const int r = i / (d / 4), c = i % (d / 4) * 4;
    const float4 value =
        first + r < end ? Load4(from + ((first + r) * heads + h) * d + c) : make_float4(0, 0, 0, 0);
    *reinterpret_cast<float4*>(to + r * (d + kPad) + c) = value;
  }
}
// score[i] = q . k of the thread's query row and key part + 8 i.
__device__ inline void Products(const float* q, const float* k, int row, int part, int d,
                                float (&score)[kKeysPerThread]) {
  const int stride = d + kPad;
#pragma unroll
  for (int i = 0; i < kKeysPerThread; ++i) score[i] = 0;
  for (int c = 0; c < d; c += 4) {
    const float4 a = Load4(q + row * stride + c);
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const float4 b = Load4(k + (part + i * kRowThreads) * stride + c);
      score[i] = fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, score[i]))));
    }
  }
}

}  // namespace spikefold::kernels::attention_f32_f32
