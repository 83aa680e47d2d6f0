// Reading packed groups (group_weights.h) in AVX2, 16 channels (half a panel) at a time. Only *_avx2.cc files
// include this: everything is in an anonymous namespace, so that no copy compiled for AVX2 can be chosen by
// the linker for another file.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <utility>

#include "kernels/group_weights.h"

namespace spikefold::kernels {
namespace {

template <int bits>
constexpr int64_t kUnitBytes = 64 * bits;

inline __m256i Load256(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

// Scales of eight channels from `lane` on.
inline __m256 GroupScales(ScaleType type, const uint8_t* block, int64_t lane) {
  if (type == ScaleType::kF32) return _mm256_loadu_ps(reinterpret_cast<const float*>(block + lane * 4));
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + lane * 2));
  if (type == ScaleType::kF16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

// Zero points of eight channels, unsigned.
inline __m256i GroupZeros(const uint8_t* zeros) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
}

// Eight k (block `step` of a unit) of 8 + 8 channels of half `half` of a panel, in the layout of 4 bits.
template <int bits, int step>
inline void LoadNibbles(const uint8_t* unit, int64_t half, __m256i (&out)[2]) {
  const uint8_t* at = unit + half * 64;
  if constexpr (bits == 4) {
    out[0] = Load256(at + step * 128);
    out[1] = Load256(at + step * 128 + 32);
    return;
  }
  const __m256i low_two = _mm256_set1_epi8(0x33), third = _mm256_set1_epi8(0x44);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    __m256i low = Load256(at + h * 32);
    if constexpr (step == 1) low = _mm256_srli_epi16(low, 2);
    out[h] = _mm256_and_si256(low, low_two);
    if constexpr (bits == 3) {
      const __m256i high = Load256(unit + 128 + h * 32);
      const __m256i first = step == 0 ? high : _mm256_slli_epi16(high, 1);
      const __m256i second = step == 0 ? _mm256_slli_epi16(high, 2) : _mm256_srli_epi16(high, 1);
      out[h] = _mm256_or_si256(out[h], _mm256_and_si256(half == 0 ? first : second, third));
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels
