// AVX2. Nibbles are the unsigned side of vpmaddubsw: a pair sum is at most 2 * 15 * 127 = 3810, so eight of
// them (32 codes) add up in 16 bits before one vpmaddwd. A register tile is 2 rows x 16 channels.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_s4g {
namespace {

constexpr int kMaxRows = 2;
constexpr int64_t kBlocksIn16Bits = 4;  // of 8 codes: 8 pair sums of 3810 are below 2^15

inline __m256i Broadcast4(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm256_set1_epi32(four);
}

inline __m256 Scales(ScaleType type, const uint8_t* block, int64_t lane) {
  if (type == ScaleType::kF32) return _mm256_loadu_ps(reinterpret_cast<const float*>(block + lane * 4));
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + lane * 2));
  if (type == ScaleType::kF16) return _mm256_cvtph_ps(halves);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

void StoreGroupSum(const Params& p, int64_t m, int64_t first, int64_t g, __m256i sum) {
  alignas(32) int32_t lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  for (int64_t j = 0; j < Min(kLanes, p.n - first); ++j) {
    p.group_sums[(m * p.n + first + j) * (p.k / p.group) + g] = lanes[j];
  }
}

template <int R>
void Tile(const Call& c, int64_t m, int64_t n0) {
  const Params& p = c.params;
  const __m256i ones = _mm256_set1_epi16(1), low_half = _mm256_set1_epi8(15);
  const int64_t lane = n0 % kPanel;
  const uint8_t* block = c.view.panels + n0 / kPanel * c.view.panel_bytes;
  __m256 acc[R][2];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < c.num_groups; ++g, block += c.view.group_bytes) {
    const uint8_t* codes = block + c.view.scale_bytes + lane * 4;
    const int8_t* x = p.x + m * p.k + g * p.group;
    __m256i sum[R][2];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      sum[r][0] = sum[r][1] = _mm256_set1_epi32(c.offset[(m + r) * c.num_groups + g]);
    }
    for (int64_t begin = 0; begin < p.group / 8; begin += kBlocksIn16Bits) {
      __m256i pairs[R][2];
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
      for (int64_t j = begin; j < Min(begin + kBlocksIn16Bits, p.group / 8); ++j) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + j * 128 + h * 32));
          const __m256i low = _mm256_and_si256(both, low_half);
          const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
#pragma GCC unroll 2
          for (int r = 0; r < R; ++r) {
            const int8_t* at = x + r * p.k + j * 8;
            pairs[r][h] = _mm256_add_epi16(pairs[r][h], _mm256_maddubs_epi16(low, Broadcast4(at)));
            pairs[r][h] = _mm256_add_epi16(pairs[r][h], _mm256_maddubs_epi16(high, Broadcast4(at + 4)));
          }
        }
      }
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(pairs[r][0], ones));
        sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(pairs[r][1], ones));
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = Scales(c.view.type, block, lane + h * kLanes);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        if (p.group_sums != nullptr) StoreGroupSum(p, m + r, n0 + h * kLanes, g, sum[r][h]);
        acc[r][h] = _mm256_add_ps(acc[r][h], _mm256_mul_ps(scale, _mm256_cvtepi32_ps(sum[r][h])));
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    const __m256 x_scale = _mm256_set1_ps(p.x_scale[(m + r) * p.x_scale_stride]);
    acc[r][0] = _mm256_mul_ps(acc[r][0], x_scale);
    acc[r][1] = _mm256_mul_ps(acc[r][1], x_scale);
  }
  FinishRows<R>(p.tail, c.tail, m, n0, p.n, acc, p.y);
}

}  // namespace

void TilesAvx2(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  constexpr void (*kTiles[kMaxRows])(const Call&, int64_t, int64_t) = {Tile<1>, Tile<2>};
  for (int64_t n0 = p_begin * kPanel; n0 < Min(p_end * kPanel, c.params.n); n0 += kColumns) {
    for (int64_t m = m_begin; m < m_end; m += kMaxRows) {
      kTiles[Min(kMaxRows, m_end - m) - 1](c, m, n0);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s4g
