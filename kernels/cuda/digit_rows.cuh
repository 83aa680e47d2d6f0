// One to four float rows times codes on the integer tensor cores.
//   Y[m,n] = sum over chunks of 64 columns of scale * (sum_k X[m,k] * code[n,k])
// x becomes integers of 23 bits, X = round(x / s) with a power of two s for each row and chunk, in three
// signed digits of 8 bits: X = 65536 d0 + 256 d1 + d2. Digits are columns (few_rows_stream.cuh), so a code
// costs no conversion, and 4-bit codes three logical operations for eight. Sums of a chunk are exact
// integers; chunks are added in float32, in the same order in every run.
// Exact     to 2^-22 of the largest |x| of each chunk, or 2^-127, and float32 additions of the chunks.
#pragma once

#include "kernels/cuda/few_rows_stream.cuh"

namespace spikefold::kernels::cuda::digits {

inline constexpr int kDigits = 3;

// Scale of a chunk by the bits of its largest magnitude, and its inverse; NaN for what is not finite.
struct ChunkScale {
  float scale, inverse;
};
__device__ inline ChunkScale ScaleOf(uint32_t largest) {
  constexpr uint32_t kLeast = 22;  // smaller ones would leave the range of normal numbers
  const uint32_t exponent = max(largest >> 23, kLeast);
  if (exponent == 255) return {__uint_as_float(0x7fc00000u), 0.0f};
  return {__uint_as_float((exponent - 21) << 23), __uint_as_float((275 - exponent) << 23)};
}

// The digits of four values: a byte each.
__device__ inline void Split(const float (&v)[4], float inverse, uint32_t (&digit)[kDigits]) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: added to a small float it leaves the nearest integer
  // X + 0x808080: its bytes are the digits plus 128.
  uint32_t u[4];
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    u[b] = __float_as_uint(fmaf(v[b], inverse, kMagic)) - __float_as_uint(kMagic) + 0x808080u;
  }
  const uint32_t low01 = __byte_perm(u[0], u[1], 0x5140), low23 = __byte_perm(u[2], u[3], 0x5140);
  const uint32_t high01 = __byte_perm(u[0], u[1], 0x0062), high23 = __byte_perm(u[2], u[3], 0x0062);
  constexpr uint32_t kSign = 0x80808080u;
  digit[0] = __byte_perm(high01, high23, 0x5410) ^ kSign;
  digit[1] = __byte_perm(low01, low23, 0x7632) ^ kSign;
  digit[2] = __byte_perm(low01, low23, 0x5410) ^ kSign;
}

// Traits of few_rows_stream.cuh but for Codes and Add. Columns::Load: the four values of a chunk that the
// bytes of word q (0 to 15) stand for. kSums: whether Add needs the sums of the digits.
template <typename Columns, bool kSums>
struct Digits {
  using Params = SimtParams;
  using Sum = float;
  static constexpr int kColumns = kDigits, kMaxColumns = 12;
  static constexpr int kMetaBytes = 16;  // two scales, then the two sums of the digits
  static constexpr bool kTail = false;

  __device__ static void Stage(const SimtParams& p, const stream::Layout& l, char* shared) {
    constexpr int kWords = stream::kChunk / 4, kAtOnce = stream::kThreads / kWords;
    constexpr int kBatch = 4;  // loads under way
    const int word = static_cast<int>(threadIdx.x) % kWords, group = static_cast<int>(threadIdx.x) / kWords;
    const int all = static_cast<int>(p.m) * l.chunks;
    const auto row_of = [&](int i) { return p.m == 1 ? 0 : i / l.chunks; };
    for (int i0 = 0; i0 < all; i0 += kAtOnce * kBatch) {
      float v[kBatch][4] = {};
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int i = i0 + b * kAtOnce + group, chunk = i - row_of(i) * l.chunks;
        if (i < all) Columns::Load(p.x + row_of(i) * p.k, chunk * stream::kChunk, p.k, word, v[b]);
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        if (i0 + b * kAtOnce >= all) break;
        const int i = i0 + b * kAtOnce + group, row = row_of(i), chunk = i - row * l.chunks;
        Split(v[b], i < all, row, chunk, word, l, shared);
      }
    }
  }

  // All lanes of a warp, a chunk each half.
  __device__ static void Split(const float (&v)[4], bool inside, int row, int chunk, int word,
                               const stream::Layout& l, char* shared) {
    constexpr int kLanes = stream::kChunk / 4;
    uint32_t largest = 0;
#pragma unroll
    for (int b = 0; b < 4; ++b) largest = max(largest, __float_as_uint(v[b]) & 0x7fffffffu);
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2) {
      largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    }
    const ChunkScale scale = ScaleOf(largest);
    uint32_t digit[kDigits];
    digits::Split(v, scale.inverse, digit);
    int sums[kDigits] = {};
    if constexpr (kSums) {
      const auto sum = [&](int d) { return __dp4a(static_cast<int>(digit[d]), 0x01010101, 0); };
      int first = sum(0), others = sum(2) + sum(1) * 65536;  // each below 2^15 in size
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) {
        first += __shfl_xor_sync(0xffffffffu, first, offset);
        others += __shfl_xor_sync(0xffffffffu, others, offset);
      }
      sums[0] = first;
      sums[2] = static_cast<int16_t>(others);
      sums[1] = (others - sums[2]) >> 16;
    }
    if (!inside) return;
    float by = scale.scale * 65536.0f;
#pragma unroll
    for (int d = 0; d < kDigits; ++d) {
      const int column = row * kDigits + d;
      char* const to = shared + column * l.stride + chunk * stream::kChunk + word * 4;
      *reinterpret_cast<uint32_t*>(to) = digit[d];
      if (word == d) {
        char* const meta = shared + l.meta + (chunk * l.pairs + column / 2) * 16 + column % 2 * 4;
        *reinterpret_cast<float*>(meta) = by;
        if constexpr (kSums) *reinterpret_cast<int*>(meta + 8) = sums[d];
      }
      by *= 1.0f / 256;
    }
  }
  __device__ static void Finish(const SimtParams& p, int linear, int64_t row, int64_t n, const float* sums,
                                const stream::Kept&) {
    simt::Finish<int8_t>(p, linear, row, n, sums[0] + (sums[1] + sums[2]));
  }
};

}  // namespace spikefold::kernels::cuda::digits
