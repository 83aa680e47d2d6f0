// The outlier tail in AVX-512. Only *_avx512.cc files include this: everything is in an anonymous namespace,
// so that no copy compiled for AVX-512 can be chosen by the linker for another file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/outlier_tail.h"

namespace spikefold::kernels {
namespace {

constexpr int64_t kHalf = 16;  // channels of a register; a panel has two

inline __mmask16 LaneMask(int64_t lanes) {
  return lanes >= kHalf ? __mmask16{0xffff} : static_cast<__mmask16>((1u << (lanes < 0 ? 0 : lanes)) - 1);
}

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// acc += high halves' product, then low halves' product. vdpbf16ps does just that, each add rounded.
inline void AddPair(__m512& acc, __m512i w, __m512i x) {
#if defined(__AVX512BF16__)
  acc = _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
#else
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(w, high)),
                        _mm512_castsi512_ps(_mm512_and_si512(x, high)), acc);
  acc = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                        _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)), acc);
#endif
}

// Adds kept columns and bias to R rows x one panel and stores them.
template <int R>
inline void FinishRows(const OutlierTail& tail, const TailOperands& operands, int64_t m, int64_t panel,
                       int64_t n, __m512 (&acc)[R][2], float* y) {
  const int64_t pairs = operands.num_pairs, n0 = panel * kPanel;
  const uint32_t* w = operands.w + panel * pairs * kPanel;
  const uint32_t* x = operands.x.data() + m * pairs;
  for (int64_t j = 0; j < pairs; ++j) {
    const __m512i w0 = _mm512_loadu_si512(w + j * kPanel);
    const __m512i w1 = _mm512_loadu_si512(w + j * kPanel + kHalf);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const __m512i xr = _mm512_set1_epi32(static_cast<int>(x[r * pairs + j]));
      AddPair(acc[r][0], w0, xr);
      AddPair(acc[r][1], w1, xr);
    }
  }
  const __mmask16 mask0 = LaneMask(n - n0), mask1 = LaneMask(n - n0 - kHalf);
  if (tail.bias != nullptr) {
    const __m512 b0 = _mm512_maskz_loadu_ps(mask0, tail.bias + n0);
    const __m512 b1 = _mm512_maskz_loadu_ps(mask1, tail.bias + n0 + kHalf);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      acc[r][0] = _mm512_add_ps(acc[r][0], b0);
      acc[r][1] = _mm512_add_ps(acc[r][1], b1);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    float* row = y + (m + r) * n + n0;
    _mm512_mask_storeu_ps(row, mask0, acc[r][0]);
    _mm512_mask_storeu_ps(row + kHalf, mask1, acc[r][1]);
  }
}

}  // namespace
}  // namespace spikefold::kernels
