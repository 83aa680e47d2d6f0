// hadamard_f32_f32 for a vector level.
//
// A row of a few thousand floats lies in the first-level cache, so passes over it cost loads and stores only.
// The power of two: radix-8 passes over distant points (three stages a load), then all stages inside
// kRegisters neighbouring vectors, the last log2(kLanes) of them by lane shuffles. A table: neighbouring
// columns make a vector, a product of `order` points is order^2 multiply-adds of broadcast signs.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_isa.h"

namespace spikefold::kernels::hadamard_f32_f32 {
namespace {

constexpr int kMaxOrder = 256;
constexpr int kRegisters = 8;  // vectors whose butterflies need no memory

// Lane i of the result is lane i ^ distance of v.
#if defined(__AVX512F__)
constexpr int kTile = 12;  // outputs of a table product held in registers, for two vectors of columns
template <int kDistance>
SF_INLINE F32 Partner(F32 v) {
  if constexpr (kDistance == 8) return _mm512_shuffle_f32x4(v, v, 0x4e);
  if constexpr (kDistance == 4) return _mm512_shuffle_f32x4(v, v, 0xb1);
  if constexpr (kDistance == 2) return _mm512_permute_ps(v, 0x4e);
  return _mm512_permute_ps(v, 0xb1);
}
// 1 in lanes whose partner is above, -1 in the others.
template <int kDistance>
SF_INLINE F32 PartnerSigns() {
  constexpr uint32_t kUpper = kDistance == 8   ? 0xff00
                              : kDistance == 4 ? 0xf0f0
                              : kDistance == 2 ? 0xcccc
                                               : 0xaaaa;
  return _mm512_mask_blend_ps(static_cast<__mmask16>(kUpper), Set1(1.0f), Set1(-1.0f));
}
#else
constexpr int kTile = 4;
template <int kDistance>
SF_INLINE F32 Partner(F32 v) {
  if constexpr (kDistance == 4) return _mm256_permute2f128_ps(v, v, 1);
  if constexpr (kDistance == 2) return _mm256_permute_ps(v, 0x4e);
  return _mm256_permute_ps(v, 0xb1);
}
template <int kDistance>
SF_INLINE F32 PartnerSigns() {
  if constexpr (kDistance == 4) return _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
  if constexpr (kDistance == 2) return _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
  return _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
}
#endif
// All stages with distances below kPower inside a vector.
template <int kPower>
SF_INLINE F32 LaneStages(F32 v) {
  if constexpr (kPower > 8) v = Fma(v, PartnerSigns<8>(), Partner<8>(v));
  if constexpr (kPower > 4) v = Fma(v, PartnerSigns<4>(), Partner<4>(v));
  if constexpr (kPower > 2) v = Fma(v, PartnerSigns<2>(), Partner<2>(v));
  if constexpr (kPower > 1) v = Fma(v, PartnerSigns<1>(), Partner<1>(v));
  return v;
}

// The farthest points first, as everywhere here: then the order of the stages, and with it the rounding, does
// not depend on the vectors' width.
template <int kRadix>
SF_INLINE void Butterflies(F32 (&v)[kRadix]) {
#pragma GCC unroll 4
  for (int h = kRadix / 2; h > 0; h /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kRadix; ++i) {
      if ((i & h) != 0) continue;
      const F32 a = v[i], b = v[i + h];
      v[i] = a + b;
      v[i + h] = a - b;
    }
  }
}

template <bool kScale>
SF_INLINE F32 LoadScaled(const float* x, const float* scale) {
  if constexpr (kScale) return Load(x) * Load(scale);
  return Load(x);
}

// Points `stride` apart (a multiple of kLanes), kRadix of them; kScale: multiplied by scale first.
template <int kRadix, bool kScale>
SF_INLINE void StridedPass(float* x, const float* scale, int64_t n, int64_t stride) {
  for (int64_t group = 0; group < n; group += kRadix * stride) {
    for (int64_t b = group; b < group + stride; b += kLanes) {
      F32 v[kRadix];
#pragma GCC unroll 8
      for (int i = 0; i < kRadix; ++i) v[i] = LoadScaled<kScale>(x + b + i * stride, scale + b + i * stride);
      Butterflies<kRadix>(v);
#pragma GCC unroll 8
      for (int i = 0; i < kRadix; ++i) Store(x + b + i * stride, v[i]);
    }
  }
}

// All stages of kVectors * kLanes neighbours.
template <int kVectors, bool kScale>
SF_INLINE void NearPass(float* x, const float* scale, int64_t n) {
  for (int64_t b = 0; b < n; b += kVectors * kLanes) {
    F32 v[kVectors];
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) v[i] = LoadScaled<kScale>(x + b + i * kLanes, scale + b + i * kLanes);
    if constexpr (kVectors > 1) Butterflies<kVectors>(v);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) Store(x + b + i * kLanes, LaneStages<kLanes>(v[i]));
  }
}

// Stages with distances below kPower < kLanes; any n.
template <int kPower>
SF_INLINE void TinyPass(float* x, const float* scale, int64_t n) {
  for (int64_t b = 0; b < n; b += kLanes) {
    StoreN(x + b, LaneStages<kPower>(LoadN(x + b, n - b) * LoadN(scale + b, n - b)), n - b);
  }
}

SF_INLINE void NearPassOf(int64_t vectors, float* x, const float* scale, int64_t n) {
  switch (vectors) {
    case 1:
      return NearPass<1, true>(x, scale, n);
    case 2:
      return NearPass<2, true>(x, scale, n);
    case 4:
      return NearPass<4, true>(x, scale, n);
    default:
      return NearPass<8, true>(x, scale, n);
  }
}

SF_INLINE void PowerOfTwo(const Plan& p, float* x) {
  if (p.power < kLanes) {
    if (p.power == 1) return TinyPass<1>(x, p.scale, p.n);
    if (p.power == 2) return TinyPass<2>(x, p.scale, p.n);
    if (p.power == 4) return TinyPass<4>(x, p.scale, p.n);
    return TinyPass<8>(x, p.scale, p.n);
  }
  // n is a multiple of power and so of kLanes.
  constexpr int64_t kNear = kRegisters * kLanes;
  if (p.power <= kNear) return NearPassOf(p.power / kLanes, x, p.scale, p.n);
  // The first far pass takes what leaves a power of 8 for the others.
  const int far_stages = __builtin_ctzll(static_cast<unsigned long long>(p.power / kNear));
  int64_t stride = p.power >> (far_stages % 3 == 0 ? 3 : far_stages % 3);
  if (far_stages % 3 == 1) {
    StridedPass<2, true>(x, p.scale, p.n, stride);
  } else if (far_stages % 3 == 2) {
    StridedPass<4, true>(x, p.scale, p.n, stride);
  } else {
    StridedPass<8, true>(x, p.scale, p.n, stride);
  }
  while (stride > kNear) {
    stride /= 8;
    StridedPass<8, false>(x, p.scale, p.n, stride);
  }
  NearPass<kRegisters, false>(x, p.scale, p.n);
}

// Order 12 with A = J, B = C = D = 2I - J: x_i A = t_i and x_i B = 2 x_i - t_i, t_i the sum of triple i.
SF_INLINE void TwelvePoints(F32 (&x)[12]) {
  const F32 t0 = x[0] + x[1] + x[2], t1 = x[3] + x[4] + x[5];
  const F32 t2 = x[6] + x[7] + x[8], t3 = x[9] + x[10] + x[11];
  const F32 p = t0 + t1, q = t2 + t3, r = t1 - t0, s = t2 - t3;
  const F32 sum0 = p + q, sum1 = r - s, sum2 = r + s, sum3 = q - p;
  const F32 two = Set1(2.0f);
#pragma GCC unroll 3
  for (int j = 0; j < 3; ++j) {
    const F32 a = x[j], b = x[3 + j], c = x[6 + j], d = x[9 + j];
    x[j] = NegFma(two, b + c + d, sum0);
    x[3 + j] = Fma(two, a + (c - d), sum1);
    x[6 + j] = Fma(two, a + (d - b), sum2);
    x[9 + j] = Fma(two, a + (b - c), sum3);
  }
}

void TwelvePass(const TablePass& t, float* x, int64_t n) {
  for (int64_t group = 0; group < n; group += 12 * t.stride) {
    for (int64_t b = 0; b < t.stride; b += kLanes) {
      float* at = x + group + b;
      const int64_t count = MinOf(kLanes, t.stride - b);
      F32 v[12];
#pragma GCC unroll 12
      for (int i = 0; i < 12; ++i) v[i] = LoadN(at + i * t.stride, count);
      TwelvePoints(v);
#pragma GCC unroll 12
      for (int i = 0; i < 12; ++i) StoreN(at + i * t.stride, v[i], count);
    }
  }
}

// Of a table product of points in `in`, for kVectors columns: outputs first .. first + kOutputs - 1 or, of a
// paired table, with the sums (which 0) or differences (1) of neighbours in `in`, every other one of twice as
// many.
template <int kOutputs, int kVectors, bool kPaired>
SF_INLINE void TableOutputs(const TablePass& t, const float* in, int64_t first, int64_t which, float* out,
                            int64_t count) {
  constexpr int64_t kTogether = kPaired ? 2 : 1;
  const int64_t points = t.order / kTogether;
  F32 sum[kOutputs][kVectors] = {};
  for (int64_t a = 0; a < points; ++a) {
    const float* signs = t.table + a * points + first;
    F32 v[kVectors];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) v[j] = Load(in + ((a * kTogether + which) * kVectors + j) * kLanes);
#pragma GCC unroll 12
    for (int c = 0; c < kOutputs; ++c) {
      const F32 sign = Set1(signs[c]);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) sum[c][j] = Fma(sign, v[j], sum[c][j]);
    }
  }
#pragma GCC unroll 12
  for (int c = 0; c < kOutputs; ++c) {
    const int64_t output = (first + c) * kTogether + which;
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      F32 y = sum[c][j];
      if constexpr (kPaired) {
        const F32 other = Load(in + ((output ^ 1) * kVectors + j) * kLanes);
        y = which == 0 ? y + other : y - other;
      }
      StoreN(out + output * t.stride + j * kLanes, y, count - j * kLanes);
    }
  }
}

template <int kVectors, bool kPaired>
SF_INLINE void AllOutputs(const TablePass& t, const float* in, int64_t which, float* x, int64_t count) {
  const int64_t points = kPaired ? t.order / 2 : t.order;  // orders are multiples of 4
  int64_t c = 0;
  for (; c + kTile <= points; c += kTile) TableOutputs<kTile, kVectors, kPaired>(t, in, c, which, x, count);
  for (; c + 4 <= points; c += 4) TableOutputs<4, kVectors, kPaired>(t, in, c, which, x, count);
  if constexpr (kPaired) {
    if (c < points) TableOutputs<2, kVectors, kPaired>(t, in, c, which, x, count);
  }
}

// The first `count` (at most kVectors * kLanes) columns from x on.
template <int kVectors>
SF_INLINE void TableColumns(const TablePass& t, float* x, int64_t count) {
  alignas(64) float in[kMaxOrder * kVectors * kLanes];
  for (int64_t a = 0; a < t.order; ++a) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      Store(in + (a * kVectors + j) * kLanes, LoadN(x + a * t.stride + j * kLanes, count - j * kLanes));
    }
  }
  if (!t.paired) return AllOutputs<kVectors, false>(t, in, 0, x, count);
  for (int64_t a = 0; a < t.order; a += 2) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      float* const first = in + (a * kVectors + j) * kLanes;
      float* const second = first + kVectors * kLanes;
      const F32 u = Load(first), v = Load(second);
      Store(first, u + v);
      Store(second, u - v);
    }
  }
  for (int64_t which = 0; which < 2; ++which) AllOutputs<kVectors, true>(t, in, which, x, count);
}

void TableProducts(const TablePass& t, float* x, int64_t n) {
  for (int64_t group = 0; group < n; group += t.order * t.stride) {
    int64_t b = 0;
    for (; b + kLanes < t.stride; b += 2 * kLanes) {
      TableColumns<2>(t, x + group + b, MinOf(2 * kLanes, t.stride - b));
    }
    if (b < t.stride) TableColumns<1>(t, x + group + b, t.stride - b);
  }
}

void TransformRows(const Plan& p, float* x, int64_t num_rows) {
  for (float* row = x; row < x + num_rows * p.n; row += p.n) {
    PowerOfTwo(p, row);
    for (int t = 0; t < p.num_tables; ++t) {
      if (p.tables[t].order == 12) {
        TwelvePass(p.tables[t], row, p.n);
      } else {
        TableProducts(p.tables[t], row, p.n);
      }
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels::hadamard_f32_f32
