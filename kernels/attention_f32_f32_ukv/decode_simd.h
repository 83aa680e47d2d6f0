// Pages and f16 rows to floats, for files that may include vec.h.
#pragma once

#include <cstdint>

#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_isa.h"
#include "kernels/cpu/online_softmax.h"

namespace spikefold::kernels::attention_f32_f32_ukv {
namespace {

constexpr int kRunVecs = 64 / kLanes;

#if defined(__AVX512F__)

SF_INLINE F32 LoadF16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
// Vector v of a run's codes as floats.
template <int kBits>
SF_INLINE F32 Codes(const uint8_t* run, int v) {
  if constexpr (kBits == 8) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(run) + v);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  }
  if constexpr (kBits ==
                4) {  // a permutation reads the low four bits of an index: mask and conversion in one
    const __m512i lanes = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(run)));
    const F32 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(_mm512_srl_epi32(lanes, _mm_cvtsi32_si128(4 * v)), table);
  }
  const __m512i lanes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(run)));
  const F32 table = _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
  const F32 low = _mm512_permutexvar_ps(_mm512_srl_epi32(lanes, _mm_cvtsi32_si128(2 * v)), table);
  if constexpr (kBits == 2) return low;
  uint64_t high;
  __builtin_memcpy(&high, run + 16, sizeof(high));
  return _mm512_mask_add_ps(low, static_cast<__mmask16>(high >> (16 * v)), low, Set1(4.0f));
}

#else

SF_INLINE F32 LoadF16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
template <int kBits>
SF_INLINE F32 Codes(const uint8_t* run, int v) {
  if constexpr (kBits == 8) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(run + 8 * v));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
  }
  const int k = v / 2, half = v % 2;  // a lane's k-th code; lanes 0-7 or 8-15
  if constexpr (kBits == 4) {
    const __m256i lanes =
        _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(run) + half));
    const __m256i codes = _mm256_srl_epi32(lanes, _mm_cvtsi32_si128(4 * k));
    return _mm256_cvtepi32_ps(_mm256_and_si256(codes, _mm256_set1_epi32(15)));
  }
  const __m256i lanes =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(run + 8 * half)));
  // A permutation reads the low three bits of an index.
  const F32 table = _mm256_setr_ps(0, 1, 2, 3, 0, 1, 2, 3);
  const F32 low = _mm256_permutevar8x32_ps(table, _mm256_srl_epi32(lanes, _mm_cvtsi32_si128(2 * k)));
  if constexpr (kBits == 2) return low;
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i high = _mm256_and_si256(_mm256_set1_epi32(run[16 + v]), bit);
  const __m256i is_set = _mm256_cmpeq_epi32(high, bit);
  return low + _mm256_and_ps(_mm256_castsi256_ps(is_set), Set1(4.0f));
}

#endif

template <int kBits>
SF_INLINE F32 Stored(const uint8_t* run, int v) {
  if constexpr (kBits == 16) {
    return LoadF16(reinterpret_cast<const uint16_t*>(run) + v * kLanes);
  } else {
    return Codes<kBits>(run, v);
  }
}

// n f16 numbers -> float, whole vectors at a time: up to kLanes - 1 more are read and written.
SF_INLINE void Widen(const uint8_t* f16, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    Store(out + i, LoadF16(reinterpret_cast<const uint16_t*>(f16) + i));
  }
}

// Where the scales of a channel's run come from: one pair for the run (kPage, kChannel), or one a lane
// (kToken).
struct KeyScales {
  const float *scale, *min;
};

// out[64] = codes of channel c * scale + min
template <int kBits, KeyScale kScale>
SF_INLINE void DecodeChannel(const KvPageLayout& layout, const uint8_t* part, int64_t c,
                             const KeyScales& scales, F32 (&out)[kRunVecs]) {
  const uint8_t* run = part + layout.k_codes + c * layout.k_run;
#pragma GCC unroll 8
  for (int v = 0; v < kRunVecs; ++v) out[v] = Stored<kBits>(run, v);
  if constexpr (kBits == 16) return;
  if constexpr (kScale == KeyScale::kToken) {
#pragma GCC unroll 8
    for (int v = 0; v < kRunVecs; ++v) {
      out[v] = Fma(out[v], Load(scales.scale + v * kLanes), Load(scales.min + v * kLanes));
    }
  } else {
    const F32 scale = Set1(scales.scale[c]), min = Set1(scales.min[c]);
#pragma GCC unroll 8
    for (int v = 0; v < kRunVecs; ++v) out[v] = Fma(out[v], scale, min);
  }
}

template <int kBits, KeyScale kScale>
void DecodeKeyRuns(const Params& p, const KvPageLayout& layout, const uint8_t* part, const KeyScales& scales,
                   float* keys) {
  const int64_t half = p.head_dim / 2;
  if (p.page_base == nullptr) {
    for (int64_t c = 0; c < p.head_dim; ++c) {
      F32 x[kRunVecs];
      DecodeChannel<kBits, kScale>(layout, part, c, scales, x);
#pragma GCC unroll 8
      for (int v = 0; v < kRunVecs; ++v) Store(keys + c * kKeyBlock + v * kLanes, x[v]);
    }
    return;
  }
  for (int64_t c = 0; c < half; ++c) {  // turned by the place in the page
    F32 a[kRunVecs], b[kRunVecs];
    DecodeChannel<kBits, kScale>(layout, part, c, scales, a);
    DecodeChannel<kBits, kScale>(layout, part, c + half, scales, b);
    const float *cos = p.page_offset + c * kKeyBlock, *sin = cos + half * kKeyBlock;
    float *out_a = keys + c * kKeyBlock, *out_b = out_a + half * kKeyBlock;
#pragma GCC unroll 8
    for (int v = 0; v < kRunVecs; ++v) {
      const F32 x = Load(cos + v * kLanes), y = Load(sin + v * kLanes);
      Store(out_a + v * kLanes, NegFma(b[v], y, a[v] * x));
      Store(out_b + v * kLanes, Fma(a[v], y, b[v] * x));
    }
  }
}

template <int kBits>
void DecodeKeysOf(const Params& p, const KvPageLayout& layout, const uint8_t* part, int64_t kv_head,
                  float* scales, float* keys) {
  if constexpr (kBits == 16) {
    DecodeKeyRuns<kBits, KeyScale::kPage>(p, layout, part, {}, keys);
    return;
  }
  if (p.format.key_scale == KeyScale::kChannel) {
    const int64_t at = kv_head * p.head_dim;
    DecodeKeyRuns<kBits, KeyScale::kChannel>(p, layout, part, {p.channels.scale + at, p.channels.min + at},
                                             keys);
    return;
  }
  const int64_t num = layout.num_k_scales;
  Widen(part + layout.k_scales, 2 * num, scales);
  if (p.format.key_scale == KeyScale::kPage) {
    DecodeKeyRuns<kBits, KeyScale::kPage>(p, layout, part, {scales, scales + num}, keys);
  } else {
    DecodeKeyRuns<kBits, KeyScale::kToken>(p, layout, part, {scales, scales + num}, keys);
  }
}

// All 64 keys of a head's part of a page, as columns: keys[head_dim, 64].
void DecodeKeys(const Params& p, const KvPageLayout& layout, const uint8_t* part, int64_t kv_head,
                float* scales, float* keys) {
  switch (p.format.k_bits) {
    case 2:
      return DecodeKeysOf<2>(p, layout, part, kv_head, scales, keys);
    case 3:
      return DecodeKeysOf<3>(p, layout, part, kv_head, scales, keys);
    case 4:
      return DecodeKeysOf<4>(p, layout, part, kv_head, scales, keys);
    case 8:
      return DecodeKeysOf<8>(p, layout, part, kv_head, scales, keys);
    default:
      return DecodeKeysOf<16>(p, layout, part, kv_head, scales, keys);
  }
}

template <int kBits>
void DecodeValuesOf(const KvPageLayout& layout, const uint8_t* part, int64_t count, float* scales,
                    float* values) {
  const uint8_t* run = part + layout.v_codes;
  if constexpr (kBits < 16) Widen(part + layout.v_scales, 2 * kPageTokens, scales);
  for (int64_t t = 0; t < count; ++t) {
    const F32 scale = Set1(scales[t]), min = Set1(scales[kPageTokens + t]);
    for (int64_t i = 0; i < layout.v_runs; ++i) {
#pragma GCC unroll 8
      for (int v = 0; v < kRunVecs; ++v) {
        const F32 x = Stored<kBits>(run, v);
        Store(values + v * kLanes, kBits == 16 ? x : Fma(x, scale, min));
      }
      run += layout.v_run;
      values += 64;
    }
  }
}

// The first `count` values: values[count, 64 * v_runs].
void DecodeValues(const Params& p, const KvPageLayout& layout, const uint8_t* part, int64_t count,
                  float* scales, float* values) {
  switch (p.format.v_bits) {
    case 2:
      return DecodeValuesOf<2>(layout, part, count, scales, values);
    case 3:
      return DecodeValuesOf<3>(layout, part, count, scales, values);
    case 4:
      return DecodeValuesOf<4>(layout, part, count, scales, values);
    case 8:
      return DecodeValuesOf<8>(layout, part, count, scales, values);
    default:
      return DecodeValuesOf<16>(layout, part, count, scales, values);
  }
}

// The first `n` of kLanes f16 numbers, 0 behind them; memory behind them is not touched.
SF_INLINE F32 LoadF16N(const uint16_t* p, int64_t n) {
  if (n >= kLanes) return LoadF16(p);
  alignas(32) uint16_t part[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) part[i] = p[i];
  return LoadF16(part);
}

// f16 rows `stride` apart -> keys[head_dim, 64], 0 from key `count` on.
void WidenKeys(const uint16_t* rows, int64_t stride, int64_t head_dim, int64_t count, float* keys) {
  for (int64_t j = 0; j < kKeyBlock; j += kLanes) {
    for (int64_t i = 0; i < head_dim; i += kLanes) {
      F32 block[kLanes];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) {
        block[l] = j + l >= count ? Zero() : LoadF16N(rows + (j + l) * stride + i, head_dim - i);
      }
      Transpose(block);
      StoreColumns(block, head_dim - i, keys + i * kKeyBlock + j);
    }
  }
}

// f16 rows -> values[count, value_stride].
void WidenValues(const uint16_t* rows, int64_t stride, int64_t head_dim, int64_t count, int64_t value_stride,
                 float* values) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t i = 0; i < value_stride; i += kLanes) {
      Store(values + j * value_stride + i, LoadF16N(rows + j * stride + i, MaxOf(0, head_dim - i)));
    }
  }
}

}  // namespace
}  // namespace spikefold::kernels::attention_f32_f32_ukv
