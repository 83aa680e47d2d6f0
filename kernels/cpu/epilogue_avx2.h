// The outlier tail in AVX2. Only *_avx2.cc files include this: everything is in an anonymous namespace, so
// that no copy compiled for AVX2 can be chosen by the linker for another file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/outlier_tail.h"

namespace spikefold::kernels {
namespace {

constexpr int64_t kLanes = 8;     // channels of a register
constexpr int64_t kColumns = 16;  // channels of a tile: half a panel, two registers

inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

// All ones in the first `lanes` lanes.
inline __m256i LaneMask(int64_t lanes) {
  const int count = static_cast<int>(lanes < 0 ? 0 : (lanes > kLanes ? kLanes : lanes));
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Adds kept columns and bias to R rows x 16 channels from n0 on (n0 % 16 == 0) and stores them.
template <int R>
inline void FinishRows(const OutlierTail& tail, const TailOperands& operands, int64_t m, int64_t n0,
                       int64_t n, __m256 (&acc)[R][2], float* y) {
  const int64_t pairs = operands.num_pairs;
  const uint32_t* w = operands.w + n0 / kPanel * pairs * kPanel + n0 % kPanel;
  const uint32_t* x = operands.x.data() + m * pairs;
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  for (int64_t j = 0; j < pairs; ++j) {
    for (int h = 0; h < 2; ++h) {
      const __m256i wj = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + j * kPanel + h * kLanes));
      const __m256 first = _mm256_castsi256_ps(_mm256_and_si256(wj, high));
      const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(wj, 16));
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256i xr = _mm256_set1_epi32(static_cast<int>(x[r * pairs + j]));
        acc[r][h] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(xr, high)), first, acc[r][h]);
        acc[r][h] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(xr, 16)), second, acc[r][h]);
      }
    }
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m256i mask = LaneMask(n - n0 - h * kLanes);
    const int64_t first = n0 + h * kLanes;
    const __m256 bias =
        tail.bias == nullptr ? _mm256_setzero_ps() : _mm256_maskload_ps(tail.bias + first, mask);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if (tail.bias != nullptr) acc[r][h] = _mm256_add_ps(acc[r][h], bias);
      _mm256_maskstore_ps(y + (m + r) * n + first, mask, acc[r][h]);
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
