// AVX2. Nibbles are the unsigned side of vpmaddubsw: a pair sum is at most 2 * 15 * 127 = 3810, so eight of
// them (32 codes) add up in 16 bits before one vpmaddwd. Codes of 8 bits: |w| and x with w's sign, where two
// products reach 2 * 128 * 127, below 2^15, and are widened at once. A register tile is 2 rows x 16 channels.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/cpu/group_codes_avx2.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_isa.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {
namespace {

constexpr int kMaxRows = 2;
constexpr int64_t kUnitsIn16Bits = 2;  // 8 pair sums of 3810 are below 2^15

inline __m256i Broadcast4(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof(four));
  return _mm256_set1_epi32(four);
}

void StoreGroupSum(const Params& p, int64_t m, int64_t first, int64_t g, __m256i sum) {
  alignas(32) int32_t lanes[kLanes];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  for (int64_t j = 0; j < Min(kLanes, p.n - first); ++j) {
    p.group_sums[(m * p.n + first + j) * (p.k / p.group) + g] = lanes[j];
  }
}

// Pair sums of one unit in 16 bits, codes up to 4 bits.
template <int bits, int step, int R>
inline void AddPairs(const uint8_t* unit, int64_t half, const int8_t* x, int64_t stride,
                     __m256i (&pairs)[R][2]) {
  const __m256i low_half = _mm256_set1_epi8(15);
  __m256i both[2];
  LoadNibbles<bits, step>(unit, half, both);
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m256i low = _mm256_and_si256(both[h], low_half);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both[h], 4), low_half);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const int8_t* at = x + r * stride + step * 8;
      pairs[r][h] = _mm256_add_epi16(pairs[r][h], _mm256_maddubs_epi16(low, Broadcast4(at)));
      pairs[r][h] = _mm256_add_epi16(pairs[r][h], _mm256_maddubs_epi16(high, Broadcast4(at + 4)));
    }
  }
}

// Adds the units of a group to `sum`, of unsigned codes; of 8 bits signed.
template <int bits, int R>
inline void AddUnits(const Call& c, const uint8_t* units, int64_t half, const int8_t* x,
                     __m256i (&sum)[R][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (bits == 8) {
    const __m256i flip = _mm256_set1_epi8(-128);
    for (int64_t q = 0; q < c.view.units * 4; ++q) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256i w = _mm256_xor_si256(Load256(units + q * 128 + half * 64 + h * 32), flip);
        const __m256i abs_w = _mm256_abs_epi8(w);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          const __m256i signed_x = _mm256_sign_epi8(Broadcast4(x + r * c.x_stride + 4 * q), w);
          const __m256i pairs = _mm256_maddubs_epi16(abs_w, signed_x);
          sum[r][h] = _mm256_add_epi32(sum[r][h], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
    return;
  }
  for (int64_t begin = 0; begin < c.view.units; begin += kUnitsIn16Bits) {
    __m256i pairs[R][2];
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) pairs[r][0] = pairs[r][1] = _mm256_setzero_si256();
    for (int64_t u = begin; u < Min(begin + kUnitsIn16Bits, c.view.units); ++u) {
      AddPairs<bits, 0, R>(units + u * kUnitBytes<bits>, half, x + u * kUnit, c.x_stride, pairs);
      AddPairs<bits, 1, R>(units + u * kUnitBytes<bits>, half, x + u * kUnit, c.x_stride, pairs);
    }
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(pairs[r][0], ones));
      sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(pairs[r][1], ones));
    }
  }
}

// What a group's sums start from. Codes of 8 bits are added signed: no offset but that of their zero point.
template <int bits, int R>
inline void StartSums(const Call& c, const uint8_t* zeros, const int32_t* offset, __m256i (&sum)[R][2]) {
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    const __m256i x = _mm256_set1_epi32(offset[r * c.view.num_groups]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      sum[r][h] = bits == 8 ? _mm256_setzero_si256() : x;
      if (!c.view.has_zeros) continue;
      const __m256i bias = _mm256_set1_epi32(bits == 8 ? 128 : 0);
      sum[r][h] = _mm256_mullo_epi32(_mm256_sub_epi32(GroupZeros(zeros + h * kLanes), bias), x);
    }
  }
}

template <int R>
inline void ScaleRows(const Call& c, int64_t m, int64_t n0, __m256 (&acc)[R][2]) {
  const Params& p = c.params;
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const int64_t first = n0 + h * kLanes;
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      if (p.x_zero != nullptr) {
        const __m256 row_sum = _mm256_maskload_ps(p.w_row_sum + first, LaneMask(p.n - first));
        const __m256 zero = _mm256_set1_ps(static_cast<float>(p.x_zero[m + r]));
        acc[r][h] = _mm256_sub_ps(acc[r][h], _mm256_mul_ps(zero, row_sum));
      }
      if (c.groups_per_x_scale > 0) continue;
      acc[r][h] = _mm256_mul_ps(acc[r][h], _mm256_set1_ps(p.x_scale[(m + r) * c.x_scale_row]));
    }
  }
}

// With params.w_scale: factors are whole numbers up to 16, so the nearest one is right; sums of all groups
// are one integer.
template <int bits, int R>
void WholeTile(const Call& c, int64_t m, int64_t n0) {
  const Params& p = c.params;
  const int64_t lane = n0 % kPanel;
  const uint8_t* const begin = c.view.panels + n0 / kPanel * c.view.panel_bytes;
  const uint8_t* block = begin;
  const int8_t* x = c.x + m * c.x_stride;
  __m256 w_scale[2], inverse[2];
  __m256i total[R][2];
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    const __m256i mask = LaneMask(p.n - n0 - h * kLanes);
    const __m256 one = _mm256_set1_ps(1);
    w_scale[h] = _mm256_blendv_ps(one, _mm256_maskload_ps(p.w_scale + n0 + h * kLanes, mask),
                                  _mm256_castsi256_ps(mask));
    inverse[h] = _mm256_div_ps(one, w_scale[h]);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) total[r][h] = _mm256_setzero_si256();
  }
  for (int64_t g = 0; g < c.view.num_groups; ++g, block += c.view.group_bytes, x += c.view.units * kUnit) {
    __m256i sum[R][2];
    StartSums<bits, R>(c, begin + c.view.zeros_at + g * kPanel + lane, c.offset + m * c.view.num_groups + g,
                       sum);
    AddUnits<bits, R>(c, block + c.view.scale_bytes, lane / kColumns, x, sum);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = GroupScales(c.view.type, block, lane + h * kLanes);
      const __m256i factor = _mm256_cvtps_epi32(_mm256_mul_ps(scale, inverse[h]));
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        if (p.group_sums != nullptr) StoreGroupSum(p, m + r, n0 + h * kLanes, g, sum[r][h]);
        total[r][h] = _mm256_add_epi32(total[r][h], _mm256_mullo_epi32(factor, sum[r][h]));
      }
    }
  }
  __m256 acc[R][2];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    const __m256 x_scale = _mm256_set1_ps(p.x_scale[(m + r) * c.x_scale_row]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      acc[r][h] = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(total[r][h]), x_scale), w_scale[h]);
    }
  }
  FinishRows<R>(p.tail, c.tail, m, n0, p.n, acc, p.y);
}

template <int bits, int R>
void Tile(const Call& c, int64_t m, int64_t n0) {
  const Params& p = c.params;
  const int64_t lane = n0 % kPanel;
  const uint8_t* const begin = c.view.panels + n0 / kPanel * c.view.panel_bytes;
  const uint8_t* block = begin;
  const int8_t* x = c.x + m * c.x_stride;
  __m256 acc[R][2];
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = _mm256_setzero_ps();
  for (int64_t g = 0; g < c.view.num_groups; ++g, block += c.view.group_bytes, x += c.view.units * kUnit) {
    __m256i sum[R][2];
    StartSums<bits, R>(c, begin + c.view.zeros_at + g * kPanel + lane, c.offset + m * c.view.num_groups + g,
                       sum);
    AddUnits<bits, R>(c, block + c.view.scale_bytes, lane / kColumns, x, sum);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = GroupScales(c.view.type, block, lane + h * kLanes);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) {
        if (p.group_sums != nullptr) StoreGroupSum(p, m + r, n0 + h * kLanes, g, sum[r][h]);
        __m256 value = _mm256_cvtepi32_ps(sum[r][h]);
        if (c.groups_per_x_scale > 0) {
          const float x_scale = p.x_scale[(m + r) * c.x_scale_row + g / c.groups_per_x_scale];
          value = _mm256_mul_ps(value, _mm256_set1_ps(x_scale));
        }
        acc[r][h] = _mm256_add_ps(acc[r][h], _mm256_mul_ps(scale, value));
      }
    }
  }
  ScaleRows<R>(c, m, n0, acc);
  FinishRows<R>(p.tail, c.tail, m, n0, p.n, acc, p.y);
}

using TilePointer = void (*)(const Call&, int64_t, int64_t);
template <int bits>
TilePointer TileOfBits(bool whole, int64_t rows) {
  static constexpr TilePointer kTiles[2][kMaxRows] = {{Tile<bits, 1>, Tile<bits, 2>},
                                                      {WholeTile<bits, 1>, WholeTile<bits, 2>}};
  return kTiles[whole ? 1 : 0][rows - 1];
}
TilePointer TileOf(const Call& c, int64_t rows) {
  const bool whole = c.params.w_scale != nullptr;
  if (c.view.bits == 2) return TileOfBits<2>(whole, rows);
  if (c.view.bits == 3) return TileOfBits<3>(whole, rows);
  return c.view.bits == 4 ? TileOfBits<4>(whole, rows) : TileOfBits<8>(whole, rows);
}

}  // namespace

void TilesAvx2(const Call& c, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  for (int64_t n0 = p_begin * kPanel; n0 < Min(p_end * kPanel, c.params.n); n0 += kColumns) {
    for (int64_t m = m_begin; m < m_end; m += kMaxRows) {
      TileOf(c, Min(kMaxRows, m_end - m))(c, m, n0);
    }
  }
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
