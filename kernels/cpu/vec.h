// Vectors of float32 for files compiled for AVX2 or AVX-512 (kernels/CMakeLists.txt): a kernel's body is
// written once, in <name>_simd.h, and compiled for each level. Everything lies in an anonymous namespace and
// is forced inline, so no code of one level can be linked in place of another's. Never include this from a
// baseline file.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define SF_INLINE inline __attribute__((always_inline))

namespace spikefold::kernels {
namespace {

#if defined(__AVX512F__)

constexpr int kLanes = 16;
constexpr int kDoubleLanes = 8;
using F32 = __m512;
using F64 = __m512d;

SF_INLINE F32 Zero() { return _mm512_setzero_ps(); }
SF_INLINE F32 Set1(float a) { return _mm512_set1_ps(a); }
SF_INLINE F32 Load(const float* p) { return _mm512_loadu_ps(p); }
SF_INLINE void Store(float* p, F32 a) { _mm512_storeu_ps(p, a); }
SF_INLINE __mmask16 FirstLanes(int64_t count) {
  return count >= kLanes ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << count) - 1u);
}
// The first `count` lanes (0 .. any); the others are zero and their memory is not touched.
SF_INLINE F32 LoadN(const float* p, int64_t count) { return _mm512_maskz_loadu_ps(FirstLanes(count), p); }
SF_INLINE void StoreN(float* p, F32 a, int64_t count) { _mm512_mask_storeu_ps(p, FirstLanes(count), a); }
// a*b + c, c - a*b, rounded once.
SF_INLINE F32 Fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
SF_INLINE F32 NegFma(F32 a, F32 b, F32 c) { return _mm512_fnmadd_ps(a, b, c); }
// NaN if b is NaN; the value of a is never NaN where it matters.
SF_INLINE F32 Max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
SF_INLINE F32 Min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
SF_INLINE F32 Round(F32 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a * 2^n for whole n, with gradual underflow.
SF_INLINE F32 ScaleByPowerOfTwo(F32 a, F32 n) { return _mm512_scalef_ps(a, n); }
// where a < b: x, else y.
SF_INLINE F32 IfLess(F32 a, F32 b, F32 x, F32 y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
// Bit i: lane i of a == b.
SF_INLINE uint32_t EqualBits(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
SF_INLINE bool AnyGreater(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
// Lanes [0, count) of a, `fill` above.
SF_INLINE F32 KeepFirst(F32 a, int64_t count, F32 fill) {
  return _mm512_mask_blend_ps(FirstLanes(count), fill, a);
}
SF_INLINE F32 Abs(F32 a) { return _mm512_abs_ps(a); }
// Lane sum and lane maximum in a fixed order: halves against each other.
SF_INLINE float Sum(F32 a) {
  const __m256 b = _mm512_castps512_ps256(a) + _mm512_extractf32x8_ps(a, 1);
  const __m128 c = _mm256_castps256_ps128(b) + _mm256_extractf128_ps(b, 1);
  const __m128 d = c + _mm_movehl_ps(c, c);
  return _mm_cvtss_f32(d + _mm_movehdup_ps(d));
}
SF_INLINE float MaxLane(F32 a) {
  const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ps(d, _mm_movehdup_ps(d)));
}
// a[i] lane j <-> a[j] lane i.
SF_INLINE void Transpose(F32 (&a)[kLanes]) {
  F32 b[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(b[4 * i]), y = _mm512_castps_pd(b[4 * i + 1]);
    const __m512d z = _mm512_castps_pd(b[4 * i + 2]), w = _mm512_castps_pd(b[4 * i + 3]);
    a[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, z));
    a[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, z));
    a[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(y, w));
    a[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(y, w));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // 4 x 4 blocks of 128 bits
    const F32 x = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), y = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    const F32 z = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    const F32 w = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    b[i] = _mm512_shuffle_f32x4(x, z, 0x88);
    b[i + 4] = _mm512_shuffle_f32x4(y, w, 0x88);
    b[i + 8] = _mm512_shuffle_f32x4(x, z, 0xdd);
    b[i + 12] = _mm512_shuffle_f32x4(y, w, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) a[i] = b[i];
}

SF_INLINE F64 ZeroF64() { return _mm512_setzero_pd(); }
SF_INLINE F64 Set1F64(double a) { return _mm512_set1_pd(a); }
SF_INLINE F64 LowF64(F32 a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a)); }
SF_INLINE F64 HighF64(F32 a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)); }
SF_INLINE F64 FmaF64(F64 a, F64 b, F64 c) { return _mm512_fmadd_pd(a, b, c); }
SF_INLINE F64 LoadF64(const double* p) { return _mm512_loadu_pd(p); }
SF_INLINE void StoreF64(double* p, F64 a) { _mm512_storeu_pd(p, a); }
// [low, high] rounded to float32.
SF_INLINE F32 Narrow(F64 low, F64 high) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
constexpr int kDoubleLanes = 4;
using F32 = __m256;
using F64 = __m256d;

SF_INLINE F32 Zero() { return _mm256_setzero_ps(); }
SF_INLINE F32 Set1(float a) { return _mm256_set1_ps(a); }
SF_INLINE F32 Load(const float* p) { return _mm256_loadu_ps(p); }
SF_INLINE void Store(float* p, F32 a) { _mm256_storeu_ps(p, a); }
SF_INLINE __m256i FirstLanes(int64_t count) {
  const int bounded = count > kLanes ? kLanes : static_cast<int>(count);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(bounded), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SF_INLINE F32 LoadN(const float* p, int64_t count) { return _mm256_maskload_ps(p, FirstLanes(count)); }
SF_INLINE void StoreN(float* p, F32 a, int64_t count) { _mm256_maskstore_ps(p, FirstLanes(count), a); }
SF_INLINE F32 Fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
SF_INLINE F32 NegFma(F32 a, F32 b, F32 c) { return _mm256_fnmadd_ps(a, b, c); }
SF_INLINE F32 Max(F32 a, F32 b) { return _mm256_max_ps(a, b); }
SF_INLINE F32 Min(F32 a, F32 b) { return _mm256_min_ps(a, b); }
SF_INLINE F32 Round(F32 a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// In two steps, so that 2^n need not be a normal number itself: n in [-252, 254].
SF_INLINE F32 ScaleByPowerOfTwo(F32 a, F32 n) {
  const __m256i i = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const F32 x = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const F32 y = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(a, x), y);
}
SF_INLINE F32 IfLess(F32 a, F32 b, F32 x, F32 y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
SF_INLINE uint32_t EqualBits(F32 a, F32 b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)));
}
SF_INLINE bool AnyGreater(F32 a, F32 b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
SF_INLINE F32 KeepFirst(F32 a, int64_t count, F32 fill) {
  return _mm256_blendv_ps(fill, a, _mm256_castsi256_ps(FirstLanes(count)));
}
SF_INLINE F32 Abs(F32 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
SF_INLINE float Sum(F32 a) {
  const __m128 c = _mm256_castps256_ps128(a) + _mm256_extractf128_ps(a, 1);
  const __m128 d = c + _mm_movehl_ps(c, c);
  return _mm_cvtss_f32(d + _mm_movehdup_ps(d));
}
SF_INLINE float MaxLane(F32 a) {
  const __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ps(d, _mm_movehdup_ps(d)));
}
SF_INLINE void Transpose(F32 (&a)[kLanes]) {
  F32 b[kLanes];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    const F32 x = b[4 * i], y = b[4 * i + 1], z = b[4 * i + 2], w = b[4 * i + 3];
    a[4 * i] = _mm256_shuffle_ps(x, z, 0x44);
    a[4 * i + 1] = _mm256_shuffle_ps(x, z, 0xee);
    a[4 * i + 2] = _mm256_shuffle_ps(y, w, 0x44);
    a[4 * i + 3] = _mm256_shuffle_ps(y, w, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
    b[i + 4] = _mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; ++i) a[i] = b[i];
}

SF_INLINE F64 ZeroF64() { return _mm256_setzero_pd(); }
SF_INLINE F64 Set1F64(double a) { return _mm256_set1_pd(a); }
SF_INLINE F64 LowF64(F32 a) { return _mm256_cvtps_pd(_mm256_castps256_ps128(a)); }
SF_INLINE F64 HighF64(F32 a) { return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)); }
SF_INLINE F64 FmaF64(F64 a, F64 b, F64 c) { return _mm256_fmadd_pd(a, b, c); }
SF_INLINE F64 LoadF64(const double* p) { return _mm256_loadu_pd(p); }
SF_INLINE void StoreF64(double* p, F64 a) { _mm256_storeu_pd(p, a); }
SF_INLINE F32 Narrow(F64 low, F64 high) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high), 1);
}

#else
#error "vec.h needs AVX2 or AVX-512; add the file through spikefold_isa_sources"
#endif

SF_INLINE void Prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
SF_INLINE int64_t MinOf(int64_t a, int64_t b) { return a < b ? a : b; }
SF_INLINE int64_t MaxOf(int64_t a, int64_t b) { return a > b ? a : b; }

SF_INLINE double SumF64(F64 a) {
  alignas(64) double lane[kDoubleLanes];
  for (int i = 0; i < kDoubleLanes; ++i) lane[i] = a[i];
  for (int half = kDoubleLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

// Sums in one order whatever the vectors' width: AVX2 and AVX-512 give the same bytes. 16 sums side by side,
// value i into sum i % 16, then halves against each other.
constexpr int64_t kSums = 16;
constexpr int kSumVecs = kSums / kLanes;
SF_INLINE float SumOfSums(const F32 (&sum)[kSumVecs]) {
#if defined(__AVX512F__)
  return Sum(sum[0]);
#else
  return Sum(sum[0] + sum[1]);
#endif
}
SF_INLINE double SumOfSums(const F64 (&sum)[2 * kSumVecs]) {
#if defined(__AVX512F__)
  return SumF64(sum[0] + sum[1]);
#else
  return SumF64((sum[0] + sum[2]) + (sum[1] + sum[3]));
#endif
}
// Adds the lanes of v, the vec-th vector of 16 values.
SF_INLINE void AddTo(F64 (&sum)[2 * kSumVecs], int vec, F32 v) {
  sum[2 * vec] = sum[2 * vec] + LowF64(v);
  sum[2 * vec + 1] = sum[2 * vec + 1] + HighF64(v);
}

}  // namespace
}  // namespace spikefold::kernels
