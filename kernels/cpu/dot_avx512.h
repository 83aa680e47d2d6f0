// Integer dot products of rows with one packed panel (matmul_f32_s8r_s8c.h) in AVX-512 VNNI. Only files of
// that level and above include this: everything is in an anonymous namespace.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace spikefold::kernels {
namespace {

constexpr int64_t kPanelStep = 128;  // packed bytes of a panel a step of four codes

inline __m512i Broadcast4(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm512_set1_epi32(four);
}

// sum += w (unsigned) * x (signed), four products a lane. As asm because GCC 12 copies the accumulator of the
// intrinsic to a fresh register each time, and 24 of them then spill.
inline void DotAdd(__m512i& sum, __m512i w, __m512i x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
}

// sum[r] += rows x + r * stride times the panel at w, steps [begin, end).
template <int R>
inline __attribute__((always_inline)) void DotRows(const int8_t* x, int64_t stride, const uint8_t* w,
                                                   int64_t begin, int64_t end, __m512i (&sum)[R][2]) {
  // Rows lie at base, base + stride, base + 2 * stride of every third pointer: addresses x86 forms for free.
  constexpr int kBases = (R + 2) / 3;
  const int8_t* base[kBases];
#pragma GCC unroll 4
  for (int b = 0; b < kBases; ++b) base[b] = x + 3 * b * stride;
  for (int64_t i = begin; i < end; ++i) {
    const __m512i w0 = _mm512_loadu_si512(w + i * kPanelStep);
    const __m512i w1 = _mm512_loadu_si512(w + i * kPanelStep + kPanelStep / 2);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512i xr = Broadcast4(base[r / 3] + r % 3 * stride + 4 * i);
      DotAdd(sum[r][0], w0, xr);
      DotAdd(sum[r][1], w1, xr);
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
