// Float rows times weights of float or 8-bit codes, float32 sums on the CUDA cores: the exact path, not the
// fast one.
//   Y[row,n] = (sum_k x[row,k] * w[n,k]) * w_scale[n] + sum_c bf16(x[row,kept[c]]) * kept_w[c,n] + bias[n] +
//   ...
// Rows are all of [0, m), or those of a list whose length the device knows.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/simt_matmul.h"

namespace spikefold::kernels::cuda {

namespace simt {

__device__ inline float RoundToBf16(float v) { return __bfloat162float(__float2bfloat16_rn(v)); }

// Everything behind the sum of one output; the scales of groups are in it already.
template <typename W>
__device__ void Finish(const SimtParams& p, int linear, int64_t row, int64_t n, float sum) {
  const Linear& w = p.linears.linear[linear];
  const float* x = p.x + row * p.k;
  float y = sum;
  if constexpr (std::is_same_v<W, int8_t>) {
    if (w.group == 0) y = y * w.w_scale[n];
    if (w.kept_w != nullptr) {
      for (int64_t c = 0; c < p.tail.num_kept; ++c) {
        const unsigned bits = w.kept_w[c * w.kept_stride + n];
        y = fmaf(RoundToBf16(x[p.tail.kept[c]]), __uint_as_float(bits << 16), y);
      }
    }
  }
  if (w.bias != nullptr) y += w.bias[n];
  const SuperList& super = p.super[linear];
  for (int64_t s = 0; s < super.num; ++s) {
    if (super.row[s] == n) y += super.value[s] * RoundToBf16(x[p.tail.super_column[super.slot[s]]]);
  }
  w.y[row * w.n + n] = y;
}

__device__ inline int64_t NumRows(const SimtParams& p) { return p.rows == nullptr ? p.m : *p.num_rows; }
__device__ inline int64_t RowAt(const SimtParams& p, int64_t i) { return p.rows == nullptr ? i : p.rows[i]; }

// Which linear, and which part of it, a block index means.
__device__ inline int LinearAt(const LinearGroup& group, int64_t per_block, int64_t& index) {
  int linear = 0;
  while (linear + 1 < group.count) {
    const int64_t blocks = CeilDiv(group.linear[linear].n, per_block);
    if (index < blocks) break;
    index -= blocks;
    ++linear;
  }
  return linear;
}

// Tiles of kTile x kTile outputs, kPart x kPart a thread.
template <typename W, int kTile, int kPart>
__global__ void __launch_bounds__((kTile / kPart) * (kTile / kPart)) SimtTiles(SimtParams p) {
  constexpr int kSide = kTile / kPart, kThreads = kSide * kSide, kStep = 16;
  __shared__ float xs[kStep][kTile + 4], ws[kStep][kTile + 4];
  const int64_t num_rows = NumRows(p), m0 = static_cast<int64_t>(blockIdx.y) * kTile;
  if (m0 >= num_rows) return;
  int64_t index = blockIdx.x;
  const int which = LinearAt(p.linears, kTile, index);
  const Linear& linear = p.linears.linear[which];
  const W* weights = static_cast<const W*>(linear.w);
  const int64_t n0 = index * kTile;
  const int thread = static_cast<int>(threadIdx.x), part_m = thread / kSide, part_n = thread % kSide;
  float sum[kPart][kPart] = {};
  for (int64_t k0 = 0; k0 < p.k; k0 += kStep) {
    __syncthreads();
    for (int i = thread; i < kTile * kStep; i += kThreads) {
      const int row = i / kStep, column = i % kStep;
      const int64_t k = k0 + column;
      const bool has_x = m0 + row < num_rows && k < p.k, has_w = n0 + row < linear.n && k < p.k;
      xs[column][row] = has_x ? p.x[RowAt(p, m0 + row) * p.k + k] : 0.0f;
      ws[column][row] = has_w ? static_cast<float>(weights[(n0 + row) * linear.w_stride + k]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      float a[kPart], b[kPart];
#pragma unroll
      for (int i = 0; i < kPart; i += 4) {
        *reinterpret_cast<float4*>(a + i) = *reinterpret_cast<const float4*>(&xs[k][part_m * 4 + i * kSide]);
        *reinterpret_cast<float4*>(b + i) = *reinterpret_cast<const float4*>(&ws[k][part_n * 4 + i * kSide]);
      }
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
#pragma unroll
        for (int j = 0; j < kPart; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    const int64_t m = m0 + part_m * 4 + i / 4 * (4 * kSide) + i % 4;
    if (m >= num_rows) continue;
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
      const int64_t n = n0 + part_n * 4 + j / 4 * (4 * kSide) + j % 4;
      if (n < linear.n) Finish<W>(p, which, RowAt(p, m), n, sum[i][j]);
    }
  }
}

inline constexpr int kFewRows = 8;   // rows that a warp carries through one row of W
inline constexpr int kRowWarps = 4;  // of a block, a channel each

// 16 codes against 16 values of a row, both aligned.
__device__ inline float AddCodes(const float* x, const uint4& words, float sum) {
  const uint32_t parts[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const float4 values = *reinterpret_cast<const float4*>(x + part * 4);
    const float v[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      sum = fmaf(v[b], static_cast<float>(static_cast<int8_t>(parts[part] >> (8 * b))), sum);
    }
  }
  return sum;
}

// Few rows: bound by the bytes of W, which are read once.
template <typename W>
__global__ void __launch_bounds__(kRowWarps* kWarp) SimtRows(const __grid_constant__ SimtParams p) {
  LetNextStart();
  WaitForInputs();
  const int64_t num_rows = NumRows(p), m0 = static_cast<int64_t>(blockIdx.y) * kFewRows;
  if (m0 >= num_rows) return;
  int64_t index = blockIdx.x;
  const int which = LinearAt(p.linears, kRowWarps, index);
  const Linear& linear = p.linears.linear[which];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t n = index * kRowWarps + threadIdx.x / kWarp;
  if (n >= linear.n) return;
  const W* weights = static_cast<const W*>(linear.w) + n * linear.w_stride;
  const int count = static_cast<int>(num_rows - m0 < kFewRows ? num_rows - m0 : kFewRows);
  float sum[kFewRows] = {};
  int64_t k_begin = lane;
  if constexpr (std::is_same_v<W, int8_t>) {
    if (count == 1 && p.k % 16 == 0) {  // one token's logits: 16 codes a load
      const float* x = p.x + RowAt(p, m0) * p.k;
      constexpr int kStep = kWarp * 16, kLoads = 4;  // 64 bytes a lane on their way
      for (int64_t k0 = lane * 16; k0 < p.k; k0 += kLoads * kStep) {
        uint4 words[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int64_t k = k0 + i * kStep;
          words[i] = k < p.k ? LoadStreaming16(weights + k) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
          const int64_t k = k0 + i * kStep;
          if (k < p.k) sum[0] = AddCodes(x + k, words[i], sum[0]);
        }
      }
      k_begin = p.k;
    }
  }
  for (int64_t k = k_begin; k < p.k; k += kWarp) {
    const float w = static_cast<float>(weights[k]);
#pragma unroll
    for (int i = 0; i < kFewRows; ++i) {
      if (i < count) sum[i] = fmaf(p.x[RowAt(p, m0 + i) * p.k + k], w, sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kFewRows; ++i) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], offset);
    }
    if (lane == 0 && i < count) Finish<W>(p, which, RowAt(p, m0 + i), n, sum[i]);
  }
}

}  // namespace simt

template <typename W>
absl::Status RunSimt(const char* name, const SimtParams& p, const Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const auto blocks = [&](int64_t per_block) {
    int64_t count = 0;
    for (int i = 0; i < p.linears.count; ++i) count += CeilDiv(p.linears.linear[i].n, per_block);
    return count;
  };
  const auto grid = [&](int64_t columns, int64_t rows) {
    return dim3(static_cast<unsigned>(blocks(columns)), static_cast<unsigned>(CeilDiv(p.m, rows)));
  };
  if (p.m <= simt::kFewRows || p.rows != nullptr) {
    return Launch(name, simt::SimtRows<W>,
                  {.grid = grid(simt::kRowWarps, simt::kFewRows),
                   .block = dim3(simt::kRowWarps * kWarp),
                   .overlaps = true},
                  stream, p);
  }
  if (blocks(128) * CeilDiv(p.m, 128) >= 128) {
    return Launch(name, simt::SimtTiles<W, 128, 8>, {.grid = grid(128, 128), .block = dim3(256)}, stream, p);
  }
  return Launch(name, simt::SimtTiles<W, 64, 4>, {.grid = grid(64, 64), .block = dim3(256)}, stream, p);
}

}  // namespace spikefold::kernels::cuda
