// A block of threads transforms a row in shared memory, in the CPU's order of additions: the power of two,
// farthest points first, then the tables from the last to the first, each sum from its first term on. So its
// results are those of the CPU's vector levels bit for bit.
//
// A thread takes 2 to 32 points of a power of two at a time, and all points of a table of up to 28: neither
// needs a second buffer. Of 32 neighbours, the last pass, eight lanes read 16 bytes each at multiples of 128
// bytes, which are one bank: so values do not lie where they count, but at Place().
#pragma once

#include <utility>

#include "formats/base/hadamard_signs.h"
#include "kernels/cuda/block.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"

namespace spikefold::kernels::hadamard_f32_f32 {

// Where value i of a row lies in shared memory: four neighbours stay together, the fours of a group of 32
// change places.
struct Places {
  int mask = 28;  // or 0: where they count
  __device__ int operator()(int i) const { return i ^ (i >> 3 & mask); }
};

// Sums and differences of points kRadix / 2 apart, then kRadix / 4, ...
template <int kRadix>
__device__ inline void Butterflies(float (&v)[kRadix]) {
#pragma unroll
  for (int h = kRadix / 2; h > 0; h /= 2) {
#pragma unroll
    for (int i = 0; i < kRadix; ++i) {
      if ((i & h) != 0) continue;
      const float a = v[i], b = v[i + h];
      v[i] = a + b;
      v[i + h] = a - b;
    }
  }
}

// What is computed from i from here on is computed again: places of values that a thread loaded, kept until
// it stores there, would take a register each.
__device__ inline void Anew(int& i) { asm volatile("" : "+r"(i)); }

// The stages of points 2^lo to 2^(lo + kBits - 1) apart.
template <int kBits>
__device__ inline void PowerPass(float* x, int n, int lo) {
  constexpr int kRadix = 1 << kBits;
  const Places place;
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x); t < n >> kBits; t += static_cast<int>(blockDim.x)) {
    int base = (t >> lo << (lo + kBits)) | (t & ((1 << lo) - 1));
    float v[kRadix];
    if (kBits >= 2 && lo == 0) {
#pragma unroll
      for (int i = 0; i < kRadix; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(x + place(base + i));
        v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRadix; ++i) v[i] = x[place(base + (i << lo))];
    }
    Butterflies(v);
    Anew(base);
    if (kBits >= 2 && lo == 0) {
#pragma unroll
      for (int i = 0; i < kRadix; i += 4) {
        *reinterpret_cast<float4*>(x + place(base + i)) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRadix; ++i) x[place(base + (i << lo))] = v[i];
    }
  }
  __syncthreads();
}
__device__ inline void FarPass(int bits, float* x, int n, int lo) {
  switch (bits) {
    case 1:
      return PowerPass<1>(x, n, lo);
    case 2:
      return PowerPass<2>(x, n, lo);
    case 3:
      return PowerPass<3>(x, n, lo);
    default:
      return PowerPass<4>(x, n, lo);
  }
}

// The points of one column of a table, `stride` apart from `base` on.
struct Column {
  __device__ float& operator[](int i) const { return x[Places()(base + i * stride)]; }
  float* x;
  int base, stride;
};

// Order 12 with A = J and B = C = D = 2I - J: t_i, the sum of triple i, stands for x_i A and 2 x_i - t_i for
// x_i B.
__device__ inline void TwelvePoints(const float (&x)[12], const Column& y) {
  const float t0 = x[0] + x[1] + x[2], t1 = x[3] + x[4] + x[5];
  const float t2 = x[6] + x[7] + x[8], t3 = x[9] + x[10] + x[11];
  const float p = t0 + t1, q = t2 + t3, r = t1 - t0, s = t2 - t3;
  const float sum0 = p + q, sum1 = r - s, sum2 = r + s, sum3 = q - p;
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    const float a = x[j], b = x[3 + j], c = x[6 + j], d = x[9 + j];
    y[j] = fmaf(-2.0f, b + c + d, sum0);
    y[3 + j] = fmaf(2.0f, a + (c - d), sum1);
    y[6 + j] = fmaf(2.0f, a + (d - b), sum2);
    y[9 + j] = fmaf(2.0f, a + (b - c), sum3);
  }
}

// Which terms of an output are taken off.
template <int kOrder, int kOutput>
inline constexpr uint64_t kMinus = PaleyMinusOfColumn(kOrder, kOutput);
// Two outputs of a product with a Paley matrix: sums of signs that the compiler knows, which would begin more
// of them than there are registers.
template <int kOrder, int kFirst>
__device__ inline void PaleyOutputs(float (&x)[kOrder], Column& y) {
  constexpr uint64_t k0 = kMinus<kOrder, kFirst>, k1 = kMinus<kOrder, kFirst + 1>;
  float sum0 = 0, sum1 = 0;
  if (kFirst % 2 == 0) asm volatile("" : "+f"(x[0]), "+r"(y.base)::"memory");
#pragma unroll
  for (int a = 0; a < kOrder; ++a) {
    sum0 = (k0 >> a & 1) != 0 ? sum0 - x[a] : sum0 + x[a];
    sum1 = (k1 >> a & 1) != 0 ? sum1 - x[a] : sum1 + x[a];
  }
  y[kFirst] = sum0;
  y[kFirst + 1] = sum1;
}
template <int kOrder, int... kPairs>
__device__ inline void PaleyPoints(float (&x)[kOrder], Column y, std::integer_sequence<int, kPairs...>) {
  (PaleyOutputs<kOrder, 2 * kPairs>(x, y), ...);
}

// The product with a table whose points, `stride` apart, a thread holds.
template <int kOrder>
__device__ inline void HeldTable(float* x, int n, int stride) {
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x); t < n / kOrder; t += static_cast<int>(blockDim.x)) {
    Column column = {x, t / stride * (kOrder - 1) * stride + t, stride};
    float v[kOrder];
#pragma unroll
    for (int i = 0; i < kOrder; ++i) v[i] = column[i];
    Anew(column.base);
    if constexpr (kOrder == 12) {
      TwelvePoints(v, column);
    } else {
      PaleyPoints(v, column, std::make_integer_sequence<int, kOrder / 2>());
    }
  }
  __syncthreads();
}

// The product with any other table: a warp takes kColumns neighbouring columns, a lane every 32nd output.
template <int kColumns>
__device__ inline void WarpTable(float* x, int n, int stride, int order, const float* table) {
  constexpr int kMostOutputs = kMaxOrder / cuda::kWarp;
  const Places place;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  const int warps = static_cast<int>(blockDim.x) / cuda::kWarp;
  const int tasks = n / order / kColumns;
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x) / cuda::kWarp; t < tasks; t += warps) {
    const int column = t * kColumns, base = column / stride * (order - 1) * stride + column;
    float sum[kMostOutputs][kColumns] = {};
#pragma unroll 2
    for (int a = 0; a < order; ++a) {
      float v[kColumns];
      const float* const from = x + place(base + a * stride);
      if constexpr (kColumns == 4) {
        const float4 four = *reinterpret_cast<const float4*>(from);
        v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
      } else {
        v[0] = *from;
      }
#pragma unroll
      for (int o = 0; o < kMostOutputs; ++o) {
        const int c = o * cuda::kWarp + lane;
        if (o * cuda::kWarp >= order) break;
        const float sign = c < order ? table[a * order + c] : 0.0f;
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[o][j] = fmaf(sign, v[j], sum[o][j]);
      }
    }
    __syncwarp();
#pragma unroll
    for (int o = 0; o < kMostOutputs; ++o) {
      const int c = o * cuda::kWarp + lane;
      if (c >= order) continue;
      float* const to = x + place(base + c * stride);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) to[j] = sum[o][j];
    }
  }
  __syncthreads();
}

__device__ inline void TablePass(float* x, int n, int stride, int order, const float* table) {
  switch (order) {
    case 12:
      return HeldTable<12>(x, n, stride);
    case 20:
      return HeldTable<20>(x, n, stride);
    case 28:
      return HeldTable<28>(x, n, stride);
    default:
      return stride % 4 == 0 ? WarpTable<4>(x, n, stride, order, table)
                             : WarpTable<1>(x, n, stride, order, table);
  }
}

__device__ inline float4 Scaled(float4 v, const float* scale) {
  const float4 by = *reinterpret_cast<const float4*>(scale);
  return make_float4(v.x * by.x, v.y * by.y, v.z * by.z, v.w * by.w);
}
// Takes `scale` [n] times a row x [n] in shared memory, which must be visible to all threads before, and is
// after.
__device__ inline void ScaleRow(float* x, int n, const float* scale) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    float* const v = x + Places()(i);
    *v = *v * scale[i];
  }
  __syncthreads();
}

// A scaled row x [n] in shared memory, RowFloats(n) of them from a multiple of 16 bytes on, values at their
// Places(); n is a whole number of Hadamard blocks. The row must be visible to all threads before, and is
// after.
__device__ inline void TransformRow(float* x, int n, const CudaPlan& plan) {
  constexpr int kNearBits = 5, kFarBits = 4;
  const int power = plan.order[plan.num_factors - 1], all = __ffs(power) - 1;
  const int near = min(all, kNearBits);  // neighbours last, as many as there may be: lanes read whole fours
#pragma unroll 1
  for (int left = all; left > near;) {
    const int far = left - near, passes = (far + kFarBits - 1) / kFarBits;
    const int bits = (far + passes - 1) / passes;
    left -= bits;
    FarPass(bits, x, n, left);
  }
  if (near == kNearBits) {
    PowerPass<kNearBits>(x, n, 0);
  } else if (near > 0) {
    FarPass(near, x, n, 0);
  }
  int stride = power;
#pragma unroll 1
  for (int f = plan.num_factors - 2; f >= 0; --f) {
    TablePass(x, n, stride, plan.order[f], plan.table[f]);
    stride *= plan.order[f];
  }
}

}  // namespace spikefold::kernels::hadamard_f32_f32
