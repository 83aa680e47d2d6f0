// Reading packed groups (group_weights.h) in AVX-512. Only *_avx512*.cc files include this: everything is in
// an anonymous namespace, so that no copy compiled for AVX-512 can be chosen by the linker for another file.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <utility>

#include "kernels/group_weights.h"

namespace spikefold::kernels {
namespace {

// k that are decoded at a time: what shares loads, and no more, for the sake of the instruction cache.
template <int bits>
constexpr int kBlock = bits == 4 || bits == 8 ? 8 : 16;
template <int bits>
constexpr int64_t kBlockBytes = kPanel* kBlock<bits>* bits / 8;

// Scales of half a panel.
inline __m512 GroupScales(ScaleType type, const uint8_t* block, int64_t half) {
  if (type == ScaleType::kF32) return _mm512_loadu_ps(block + half * 64);
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + half * 32));
  if (type == ScaleType::kF16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// Eight k (8 * step ...) of a panel in the layout of 4 bits.
template <int bits, int step>
inline void LoadNibbles(const uint8_t* block, __m512i& half0, __m512i& half1) {
  if constexpr (bits == 4) {
    half0 = _mm512_loadu_si512(block + step * 128);
    half1 = _mm512_loadu_si512(block + step * 128 + 64);
    return;
  }
  const __m512i low_two = _mm512_set1_epi8(0x33), third = _mm512_set1_epi8(0x44);
  half0 = _mm512_loadu_si512(block);
  half1 = _mm512_loadu_si512(block + 64);
  if constexpr (step == 1) {
    half0 = _mm512_srli_epi16(half0, 2);
    half1 = _mm512_srli_epi16(half1, 2);
  }
  half0 = _mm512_and_si512(half0, low_two);
  half1 = _mm512_and_si512(half1, low_two);
  if constexpr (bits == 3) {
    const __m512i high = _mm512_loadu_si512(block + 128);
    const __m512i high0 = step == 0 ? high : _mm512_slli_epi16(high, 1);
    const __m512i high1 = step == 0 ? _mm512_slli_epi16(high, 2) : _mm512_srli_epi16(high, 1);
    half0 = _mm512_ternarylogic_epi32(half0, high0, third, 0xf8);  // half0 | (high0 & third)
    half1 = _mm512_ternarylogic_epi32(half1, high1, third, 0xf8);
  }
}

// Four k (4 * quad ...) of a panel, unsigned bytes.
template <int bits, int quad>
inline void LoadQuad(const uint8_t* block, __m512i& half0, __m512i& half1) {
  if constexpr (bits == 8) {
    half0 = _mm512_loadu_si512(block + quad * 128);
    half1 = _mm512_loadu_si512(block + quad * 128 + 64);
  } else if constexpr (bits == 2) {
    constexpr int kShift[4] = {0, 4, 2, 6};
    const __m512i mask = _mm512_set1_epi8(3);
    half0 = _mm512_loadu_si512(block);
    half1 = _mm512_loadu_si512(block + 64);
    if constexpr (quad > 0) {
      half0 = _mm512_srli_epi16(half0, kShift[quad]);
      half1 = _mm512_srli_epi16(half1, kShift[quad]);
    }
    half0 = _mm512_and_si512(half0, mask);
    half1 = _mm512_and_si512(half1, mask);
  } else {
    const __m512i low_half = _mm512_set1_epi8(15);
    LoadNibbles<bits, quad / 2>(block, half0, half1);
    if constexpr (quad % 2 == 1) {
      half0 = _mm512_srli_epi16(half0, 4);
      half1 = _mm512_srli_epi16(half1, 4);
    }
    half0 = _mm512_and_si512(half0, low_half);
    half1 = _mm512_and_si512(half1, low_half);
  }
}

template <class F, int... i>
__attribute__((always_inline)) inline void ForEach(F&& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}

}  // namespace
}  // namespace spikefold::kernels
