// trellis_s8_f32 for a vector level: lanes are neighbouring low bits of a state.
#pragma once

#include <cstdint>

#include "kernels/cpu/vec.h"
#include "kernels/trellis_s8_f32/trellis_s8_f32_isa.h"

namespace spikefold::kernels::trellis_s8_f32 {
namespace {

// from[0] 2^bits times, from[1] 2^bits times, ...
template <int bits>
SF_INLINE F32 Spread(const float* from) {
#if defined(__AVX512F__)
  if constexpr (bits >= 4) {
    return Set1(*from);
  } else {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(lane, bits), Load(from));
  }
#else
  if constexpr (bits >= 3) {
    return Set1(*from);
  } else {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_permutevar8x32_ps(Load(from), _mm256_srli_epi32(lane, bits));
  }
#endif
}

template <int bits>
SF_INLINE void Row(const Params& params, int64_t i, const float* from, float* to) {
  constexpr int64_t kPaths = int64_t{1} << (kStateBits - bits);
  constexpr int kStep = kPaths / kLanes < 4 ? 2 : 4;  // vectors whose steps go side by side
  static_assert(kPaths % (kStep * kLanes) == 0);
  const F32 x = Set1(params.target[i]), scale = Set1(params.scale[i]);
  for (int64_t p = 0; p < kPaths; p += kStep * kLanes) {
    F32 best[kStep];
    const float* before[kStep];
#pragma GCC unroll 4
    for (int v = 0; v < kStep; ++v) {
      best[v] = Set1(__builtin_huge_valf());
      before[v] = from + ((p + v * kLanes) >> bits);
    }
    const float* levels = params.levels + p;
#pragma GCC unroll 2
    for (int64_t top = 0; top < int64_t{1} << bits; ++top, levels += kPaths) {
#pragma GCC unroll 4
      for (int v = 0; v < kStep; ++v) {
        const F32 e = NegFma(scale, Load(levels + v * kLanes), x);
        best[v] = Min(best[v], Fma(e, e, Spread<bits>(before[v] + top * (kPaths >> bits))));
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kStep; ++v) Store(to + p + v * kLanes, best[v]);
  }
}

// Each cost again is that of one of 2^bits steps, the same fused operations of which give the same bits.
template <int bits>
SF_INLINE void WayBack(const Params& params, const float* cost) {
  constexpr int64_t kPaths = int64_t{1} << (kStateBits - bits);
  const float* last = cost + params.n * kPaths;
  int64_t path = 0;
  for (int64_t p = 1; p < kPaths; ++p) path = last[p] < last[path] ? p : path;
  for (int64_t i = params.n - 1; i >= 0; --i) {
    const float* from = cost + i * kPaths;
    const float x = params.target[i], scale = params.scale[i];
    const float sum = from[kPaths + path];
    int64_t state = path;
    for (;; state += kPaths) {
      const float e = __builtin_fmaf(-scale, params.levels[state], x);
      if (__builtin_fmaf(e, e, from[state >> bits]) == sum) break;
    }
    params.states[i] = static_cast<uint16_t>(state);
    path = state >> bits;
  }
}

template <int bits>
void Path(const Params& params, float* cost) {
  constexpr int64_t kPaths = int64_t{1} << (kStateBits - bits);
  for (int64_t i = 0; i < params.n; ++i) {
    Row<bits>(params, i, cost + i * kPaths, cost + (i + 1) * kPaths);
  }
  WayBack<bits>(params, cost);
}

inline void Search(const Params& params, float* cost) {
  switch (params.bits) {
    case 2:
      return Path<2>(params, cost);
    case 3:
      return Path<3>(params, cost);
    case 4:
      return Path<4>(params, cost);
    case 5:
      return Path<5>(params, cost);
    default:
      return Path<6>(params, cost);
  }
}

}  // namespace
}  // namespace spikefold::kernels::trellis_s8_f32
