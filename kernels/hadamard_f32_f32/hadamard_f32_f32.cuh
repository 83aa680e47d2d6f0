// A block of threads transforms a row in shared memory, in the CPU's order of additions: the power of two,
// farthest points first, then the tables from the last to the first, each sum from its first term on. So its
// results are those of the CPU's vector levels bit for bit.
//
// A thread takes 2 to 32 points of a power of two at a time, and all points of a table of up to 28: neither
// needs a second buffer. Of 32 neighbours, the last pass, eight lanes read 16 bytes each at multiples of 128
// bytes, which are one bank: so values do not lie where they count, but at their Places.
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

__device__ inline float LargerSize(float size, float x) { return fmaxf(size, fabsf(x)); }

// A row's values, as far as they lie in shared memory already.
struct InPlace {
  __device__ float operator()(int i) const { return x[Places()(i)]; }
  const float* x;
};

inline constexpr int kNearBits = 5, kFarBits = 4;  // of a power of two that one pass takes

// The stages of points 2^lo to 2^(lo + kBits - 1) apart, of source(0) to source(n - 1) into x. kLo: lo, or 0
// where the compiler does not know it.
template <int kBits, int kLo, typename Source>
__device__ inline void PowerPass(float* x, int n, int any_lo, Source source) {
  constexpr int kRadix = 1 << kBits;
  const int lo = kLo > 0 ? kLo : any_lo;
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x); t < n >> kBits; t += static_cast<int>(blockDim.x)) {
    int base = (t >> lo << (lo + kBits)) | (t & ((1 << lo) - 1));
    float v[kRadix];
#pragma unroll
    for (int i = 0; i < kRadix; ++i) v[i] = source(base + (i << lo));
    Butterflies(v);
    Anew(base);
#pragma unroll
    for (int i = 0; i < kRadix; ++i) {
      // Where 32 values are passed over, base has no bits that i could carry into.
      x[kLo == 5 && kBits >= 3 ? (base ^ (i * 4 & 28)) + i * 32 : Places()(base + (i << lo))] = v[i];
    }
  }
  __syncthreads();
}
template <int kLo, typename Source>
__device__ inline void PowerPassOf(int bits, float* x, int n, int lo, Source source) {
  switch (bits) {
    case 1:
      return PowerPass<1, kLo>(x, n, lo, source);
    case 2:
      return PowerPass<2, kLo>(x, n, lo, source);
    case 3:
      return PowerPass<3, kLo>(x, n, lo, source);
    default:
      return PowerPass<kFarBits, kLo>(x, n, lo, source);
  }
}
template <typename Source>
__device__ inline void FarPass(int bits, float* x, int n, int lo, Source source) {
  return lo == kNearBits ? PowerPassOf<kNearBits>(bits, x, n, lo, source)
                         : PowerPassOf<0>(bits, x, n, lo, source);
}
// All stages of 32 neighbours, in fours. Returns the largest size of the thread's results, if that is wanted.
template <bool kSized>
__device__ inline float NearPass(float* x, int n) {
  constexpr int kRadix = 1 << kNearBits;
  float size = 0;
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x); t < n / kRadix; t += static_cast<int>(blockDim.x)) {
    int base = t * kRadix;
    float v[kRadix];
#pragma unroll
    for (int i = 0; i < kRadix; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(x + Places()(base + i));
      v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
    Butterflies(v);
    Anew(base);
#pragma unroll
    for (int i = 0; i < kRadix; i += 4) {
      *reinterpret_cast<float4*>(x + Places()(base + i)) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
#pragma unroll
      for (int e = 0; kSized && e < 4; ++e) size = LargerSize(size, v[i + e]);
    }
  }
  __syncthreads();
  return size;
}

// The points of one column of a table, `stride` apart from `base` on. kWhole: of a stride of whole 256,
// between which places repeat; base is a place then.
template <bool kWhole>
struct Column {
  __device__ float& operator[](int i) const {
    return x[kWhole ? base + i * stride : Places()(base + i * stride)];
  }
  __device__ void Store(int i, float y) {
    (*this)[i] = y;
    size = LargerSize(size, y);
  }
  float* x;
  int base, stride;
  float size;  // the largest that was stored
};

// Order 12 with A = J and B = C = D = 2I - J: t_i, the sum of triple i, stands for x_i A and 2 x_i - t_i for
// x_i B.
template <bool kWhole>
__device__ inline void TwelvePoints(const float (&x)[12], Column<kWhole>& y) {
  const float t0 = x[0] + x[1] + x[2], t1 = x[3] + x[4] + x[5];
  const float t2 = x[6] + x[7] + x[8], t3 = x[9] + x[10] + x[11];
  const float p = t0 + t1, q = t2 + t3, r = t1 - t0, s = t2 - t3;
  const float sum0 = p + q, sum1 = r - s, sum2 = r + s, sum3 = q - p;
#pragma unroll
  for (int j = 0; j < 3; ++j) {
    const float a = x[j], b = x[3 + j], c = x[6 + j], d = x[9 + j];
    y.Store(j, fmaf(-2.0f, b + c + d, sum0));
    y.Store(3 + j, fmaf(2.0f, a + (c - d), sum1));
    y.Store(6 + j, fmaf(2.0f, a + (d - b), sum2));
    y.Store(9 + j, fmaf(2.0f, a + (b - c), sum3));
  }
}

// Which terms of an output are taken off: of a paired matrix (formats/base/hadamard.h) of an output of C.
template <int kOrder>
inline constexpr bool kPairs = !IsPaley1(kOrder);
template <int kOrder, int kOutput>
inline constexpr uint64_t kMinus = PaleyMinusOfColumn(kOrder, kPairs<kOrder> ? 2 : 1, kOutput);
// Two outputs of a product with a Paley matrix: sums of signs that the compiler knows, which would begin more
// of them than there are registers.
template <int kOrder, int kFirst, bool kWhole>
__device__ inline void PaleyOutputs(float (&x)[kOrder], Column<kWhole>& y) {
  constexpr bool kPaired = kPairs<kOrder>;
  constexpr int kPoints = kPaired ? kOrder / 2 : kOrder, kOutput = kPaired ? kFirst / 2 : kFirst;
  constexpr int kNextOutput = kPaired ? kOutput : kOutput + 1;
  constexpr uint64_t k0 = kMinus<kOrder, kOutput>, k1 = kMinus<kOrder, kNextOutput>;
  float sum0 = 0, sum1 = 0;
  asm volatile("" : "+f"(x[0]), "+r"(y.base)::"memory");
#pragma unroll
  for (int a = 0; a < kPoints; ++a) {
    if (kPaired && a == kOutput) continue;
    const float v0 = x[kPaired ? 2 * a : a], v1 = x[kPaired ? 2 * a + 1 : a];
    sum0 = (k0 >> a & 1) != 0 ? sum0 - v0 : sum0 + v0;
    sum1 = (k1 >> a & 1) != 0 ? sum1 - v1 : sum1 + v1;
  }
  y.Store(kFirst, kPaired ? sum0 + x[kFirst + 1] : sum0);
  y.Store(kFirst + 1, kPaired ? sum1 - x[kFirst] : sum1);
}
template <int kOrder, bool kWhole, int... kEvens>
__device__ inline void PaleyPoints(float (&x)[kOrder], Column<kWhole>& y,
                                   std::integer_sequence<int, kEvens...>) {
  if constexpr (kPairs<kOrder>) {
#pragma unroll
    for (int i = 0; i < kOrder; i += 2) {
      const float a = x[i], b = x[i + 1];
      x[i] = a + b;
      x[i + 1] = a - b;
    }
  }
  (PaleyOutputs<kOrder, 2 * kEvens>(x, y), ...);
}

// The product with a table whose points, `stride` apart, a thread holds. Returns as NearPass() does.
template <int kOrder, bool kWhole>
__device__ inline float HeldTable(float* x, int n, int stride) {
  float size = 0;
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x); t < n / kOrder; t += static_cast<int>(blockDim.x)) {
    const int base = t / stride * (kOrder - 1) * stride + t;
    Column<kWhole> column = {x, kWhole ? Places()(base) : base, stride, size};
    float v[kOrder];
#pragma unroll
    for (int i = 0; i < kOrder; ++i) v[i] = column[i];
    Anew(column.base);
    if constexpr (kOrder == 12) {
      TwelvePoints(v, column);
    } else {
      PaleyPoints(v, column, std::make_integer_sequence<int, kOrder / 2>());
    }
    size = column.size;
  }
  __syncthreads();
  return size;
}
template <int kOrder>
__device__ inline float HeldTable(float* x, int n, int stride) {
  return stride % 256 == 0 ? HeldTable<kOrder, true>(x, n, stride) : HeldTable<kOrder, false>(x, n, stride);
}

// The product with any other table: a warp takes kColumns neighbouring columns, a lane every 32nd output, of
// a paired table every 32nd pair of them.
template <int kColumns, bool kPaired>
__device__ inline float WarpTable(float* x, int n, int stride, int order, const float* table) {
  constexpr int kTogether = kPaired ? 2 : 1, kMostOutputs = kMaxOrder / kTogether / cuda::kWarp;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  const int warps = static_cast<int>(blockDim.x) / cuda::kWarp;
  const int tasks = n / order / kColumns, points = order / kTogether;
  float size = 0;
#pragma unroll 1
  for (int t = static_cast<int>(threadIdx.x) / cuda::kWarp; t < tasks; t += warps) {
    const int column = t * kColumns, base = column / stride * (order - 1) * stride + column;
    const auto at = [&](int row) { return x + Places()(base + row * stride); };
    // Point a of each column or, paired, the sum and the difference of two.
    const auto load = [&](int a, float(&v)[kTogether][kColumns]) {
#pragma unroll
      for (int w = 0; w < kTogether; ++w) {
        const float* const from = at(a * kTogether + w);
        if constexpr (kColumns == 4) {
          const float4 four = *reinterpret_cast<const float4*>(from);
          v[w][0] = four.x, v[w][1] = four.y, v[w][2] = four.z, v[w][3] = four.w;
        } else if constexpr (kColumns == 2) {
          const float2 two = *reinterpret_cast<const float2*>(from);
          v[w][0] = two.x, v[w][1] = two.y;
        } else {
          v[w][0] = *from;
        }
      }
      if constexpr (kPaired) {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const float first = v[0][j], second = v[1][j];
          v[0][j] = first + second;
          v[1][j] = first - second;
        }
      }
    };
    float sum[kMostOutputs][kTogether][kColumns] = {};
#pragma unroll 2
    for (int a = 0; a < points; ++a) {
      float v[kTogether][kColumns];
      load(a, v);
#pragma unroll
      for (int o = 0; o < kMostOutputs; ++o) {
        const int c = o * cuda::kWarp + lane;
        if (o * cuda::kWarp >= points) break;
        const float sign = c < points ? table[a * points + c] : 0.0f;
#pragma unroll
        for (int w = 0; w < kTogether; ++w) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) sum[o][w][j] = fmaf(sign, v[w][j], sum[o][w][j]);
        }
      }
    }
    if constexpr (kPaired) {
#pragma unroll
      for (int o = 0; o < kMostOutputs; ++o) {
        const int c = o * cuda::kWarp + lane;
        if (c >= points) continue;
        float v[kTogether][kColumns];
        load(c, v);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          sum[o][0][j] = sum[o][0][j] + v[1][j];
          sum[o][1][j] = sum[o][1][j] - v[0][j];
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int o = 0; o < kMostOutputs; ++o) {
      const int c = o * cuda::kWarp + lane;
      if (c >= points) continue;
#pragma unroll
      for (int w = 0; w < kTogether; ++w) {
        float* const to = at(c * kTogether + w);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          to[j] = sum[o][w][j];
          size = LargerSize(size, sum[o][w][j]);
        }
      }
    }
  }
  __syncthreads();
  return size;
}
template <bool kPaired>
__device__ inline float WarpTable(float* x, int n, int stride, int order, const float* table) {
  constexpr int kColumns = kPaired ? 2 : 4;  // sums in 32 registers at the most
  return stride % kColumns == 0 ? WarpTable<kColumns, kPaired>(x, n, stride, order, table)
                                : WarpTable<1, kPaired>(x, n, stride, order, table);
}

__device__ inline float TablePass(float* x, int n, int stride, int order, const float* table, bool paired) {
  switch (order) {
    case 12:
      return HeldTable<12>(x, n, stride);
    case 20:
      return HeldTable<20>(x, n, stride);
    case 28:
      return HeldTable<28>(x, n, stride);
    default:
      return paired ? WarpTable<true>(x, n, stride, order, table)
                    : WarpTable<false>(x, n, stride, order, table);
  }
}

// A scaled row, source(0) to source(n - 1), transformed into x in shared memory: RowFloats(n) floats from a
// multiple of 16 bytes on, values at their Places(), visible to all threads at the end. n is a whole number
// of Hadamard blocks. What a source reads in x must be visible to all threads. Returns the largest size of
// those of the results that a thread has made.
template <typename Source>
__device__ inline float TransformRow(float* x, int n, const CudaPlan& plan, Source source) {
  const InPlace in_place = {x};
  const int power = plan.order[plan.num_factors - 1], all = __ffs(power) - 1;
  const int near = min(all, kNearBits);  // neighbours last, as many as there may be: lanes read whole fours
  float size = 0;
  if (all == near) {
    for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
      x[Places()(i)] = source(i);
    }
    __syncthreads();
  }
#pragma unroll 1
  for (int left = all; left > near;) {
    const int far = left - near, passes = (far + kFarBits - 1) / kFarBits;
    const int bits = (far + passes - 1) / passes;
    const bool first = left == all;
    left -= bits;
    if (first) {
      FarPass(bits, x, n, left, source);
    } else {
      FarPass(bits, x, n, left, in_place);
    }
  }
  const bool last = plan.num_factors == 1;
  if (near == kNearBits) {
    size = last ? NearPass<true>(x, n) : NearPass<false>(x, n);
  } else {
    if (near > 0) PowerPassOf<0>(near, x, n, 0, in_place);
    for (int i = static_cast<int>(threadIdx.x); last && i < n; i += static_cast<int>(blockDim.x)) {
      size = LargerSize(size, in_place(i));
    }
  }
  int stride = power;
#pragma unroll 1
  for (int f = plan.num_factors - 2; f >= 0; --f) {
    size = TablePass(x, n, stride, plan.order[f], plan.table[f], plan.paired[f]);
    stride *= plan.order[f];
  }
  return size;
}

}  // namespace spikefold::kernels::hadamard_f32_f32
