// trellis_s8_f32 for a vector level: lanes are neighbouring low bits of a state.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec.h"
#include "kernels/trellis_s8_f32/trellis_s8_f32_isa.h"

namespace spikefold::kernels::trellis_s8_f32 {
namespace {

#if defined(__AVX512F__)

using U32 = __m512i;
SF_INLINE U32 Set1U(uint32_t a) { return _mm512_set1_epi32(static_cast<int>(a)); }
SF_INLINE U32 AddU(U32 a, U32 b) { return _mm512_add_epi32(a, b); }
SF_INLINE U32 MinU(U32 a, U32 b) { return _mm512_min_epu32(a, b); }
SF_INLINE F32 AsFloat(U32 a) { return _mm512_castsi512_ps(a); }
// The bits of `a` under `keep`, and `tag`.
SF_INLINE U32 Tagged(F32 a, U32 keep, U32 tag) {
  return _mm512_ternarylogic_epi32(_mm512_castps_si512(a), keep, tag, 0xea);  // (a & keep) | tag
}
SF_INLINE void StoreTags(uint8_t* to, U32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm512_cvtepi32_epi8(_mm512_and_si512(a, Set1U(kTagMask))));
}
// from[0] 2^bits times, from[1] 2^bits times, ...
template <int bits>
SF_INLINE F32 Spread(const float* from) {
  if constexpr (bits >= 4) {
    return Set1(*from);
  } else {
    const U32 lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(lane, bits), Load(from));
  }
}

#elif defined(__AVX2__)

using U32 = __m256i;
SF_INLINE U32 Set1U(uint32_t a) { return _mm256_set1_epi32(static_cast<int>(a)); }
SF_INLINE U32 AddU(U32 a, U32 b) { return _mm256_add_epi32(a, b); }
SF_INLINE U32 MinU(U32 a, U32 b) { return _mm256_min_epu32(a, b); }
SF_INLINE F32 AsFloat(U32 a) { return _mm256_castsi256_ps(a); }
SF_INLINE U32 Tagged(F32 a, U32 keep, U32 tag) {
  return _mm256_or_si256(_mm256_and_si256(_mm256_castps_si256(a), keep), tag);
}
SF_INLINE void StoreTags(uint8_t* to, U32 a) {
  const U32 tags = _mm256_and_si256(a, Set1U(kTagMask));
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(tags), _mm256_extracti128_si256(tags, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
template <int bits>
SF_INLINE F32 Spread(const float* from) {
  if constexpr (bits >= 3) {
    return Set1(*from);
  } else {
    const U32 lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_permutevar8x32_ps(Load(from), _mm256_srli_epi32(lane, bits));
  }
}

#endif

template <int bits>
SF_INLINE void Row(const Params& params, int64_t i, const float* from, float* to, uint8_t* back) {
  constexpr int64_t kPaths = int64_t{1} << (kStateBits - bits);
  constexpr int kStep = 2;  // vectors whose steps go side by side
  static_assert(kPaths % (kStep * kLanes) == 0);
  const F32 x = Set1(params.target[i]), scale = Set1(params.scale[i]);
  const U32 keep = Set1U(~kTagMask), one = Set1U(1);
  for (int64_t p = 0; p < kPaths; p += kStep * kLanes) {
    U32 best[kStep] = {Set1U(~uint32_t{0}), Set1U(~uint32_t{0})}, tag = Set1U(0);
    for (int64_t top = 0; top < int64_t{1} << bits; ++top) {
#pragma GCC unroll 2
      for (int v = 0; v < kStep; ++v) {
        const int64_t state = top * kPaths + p + v * kLanes;
        const F32 e = NegFma(scale, Load(params.levels + state), x);
        best[v] = MinU(best[v], Tagged(Fma(e, e, Spread<bits>(from + (state >> bits))), keep, tag));
      }
      tag = AddU(tag, one);
    }
#pragma GCC unroll 2
    for (int v = 0; v < kStep; ++v) {
      Store(to + p + v * kLanes, AsFloat(best[v]));
      StoreTags(back + p + v * kLanes, best[v]);
    }
  }
}

template <int bits>
void Rows(const Params& params, float* cost, uint8_t* back) {
  constexpr int64_t kPaths = int64_t{1} << (kStateBits - bits), kHalf = kPaths + kCostPad;
  for (int64_t i = 0; i < params.n; ++i) {
    Row<bits>(params, i, cost + i % 2 * kHalf, cost + (i + 1) % 2 * kHalf, back + i * kPaths);
  }
}

inline void Forward(const Params& params, float* cost, uint8_t* back) {
  switch (params.bits) {
    case 2:
      return Rows<2>(params, cost, back);
    case 3:
      return Rows<3>(params, cost, back);
    case 4:
      return Rows<4>(params, cost, back);
    case 5:
      return Rows<5>(params, cost, back);
    default:
      return Rows<6>(params, cost, back);
  }
}

}  // namespace
}  // namespace spikefold::kernels::trellis_s8_f32
