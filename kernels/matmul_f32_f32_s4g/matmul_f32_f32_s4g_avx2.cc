// AVX2 + FMA + F16C. A register tile is up to 3 rows x 16 channels: group sums and totals. Few rows decode
// the codes in registers; from kDecodeRows rows on, half a panel is decoded once into a buffer and all rows
// pass over it.
#include <immintrin.h>

#include <utility>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_isa.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

using matmul_f32_s8r_s4g::ScaleType;

constexpr int kMaxRows = 3;

inline __m256 Scales(ScaleType type, const uint8_t* block, int64_t lane) {
  if (type == ScaleType::kF32) return _mm256_loadu_ps(reinterpret_cast<const float*>(block + lane * 4));
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + lane * 2));
  if (type == ScaleType::kF16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

// The code of k = 8 * j + i of every lane: byte i % 4, low half for i < 4. 2^23 + nibble is the float whose
// mantissa ends in that nibble.
template <int i>
inline __m256 DecodeNibble(__m256i codes) {
  const __m256i nibble =
      _mm256_and_si256(_mm256_srli_epi32(codes, 8 * (i % 4) + 4 * (i / 4)), _mm256_set1_epi32(15));
  const __m256i with_exponent = _mm256_or_si256(nibble, _mm256_set1_epi32(0x4b000000));
  return _mm256_sub_ps(_mm256_castsi256_ps(with_exponent), _mm256_set1_ps(8388608.0f + 8.0f));
}

template <class F, int... i>
__attribute__((always_inline)) inline void ForEachNibble(F&& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}

inline __m256i Load(const uint8_t* w) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w)); }

template <int R>
void Tile(const Call& c, int64_t m, int64_t n0) {
  const Params& p = c.params;
  const int64_t lane = n0 % kPanel;
  const uint8_t* block = c.view.panels + n0 / kPanel * c.view.panel_bytes;
  __m256 acc[R][2];
#pragma GCC unroll 3
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < c.num_groups; ++g, block += c.view.group_bytes) {
    const float* x = p.x + m * p.k + g * p.group;
    __m256 sum[R][2];
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
    const auto add = [&](int64_t k, __m256 w0, __m256 w1) __attribute__((always_inline)) {
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) {
        const __m256 xr = _mm256_set1_ps(x[r * p.k + k]);
        sum[r][0] = _mm256_fmadd_ps(xr, w0, sum[r][0]);
        sum[r][1] = _mm256_fmadd_ps(xr, w1, sum[r][1]);
      }
    };
    const uint8_t* in = block + c.view.scale_bytes + lane * 4;
    for (int64_t j = 0; j < p.group / 8; ++j) {
      const __m256i codes0 = Load(in + j * 128), codes1 = Load(in + j * 128 + 32);
      ForEachNibble(
          [&](auto i) __attribute__((always_inline)) {
            add(j * 8 + i, DecodeNibble<i>(codes0), DecodeNibble<i>(codes1));
          },
          std::make_integer_sequence<int, 8>{});
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = Scales(c.view.type, block, lane + h * kLanes);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) acc[r][h] = _mm256_fmadd_ps(scale, sum[r][h], acc[r][h]);
    }
  }
  FinishRows<R>(p.tail, c.tail, m, n0, p.n, acc, p.y);
}

}  // namespace

void TilesAvx2(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  constexpr void (*kTiles[kMaxRows])(const Call&, int64_t, int64_t) = {Tile<1>, Tile<2>, Tile<3>};
  for (int64_t n0 = p_begin * kPanel; n0 < Min(p_end * kPanel, c.params.n); n0 += kColumns) {
    for (int64_t m = m_begin; m < m_end; m += kMaxRows) {
      const auto tile = kTiles[Min(kMaxRows, m_end - m) - 1];
      tile(c, m, n0);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
