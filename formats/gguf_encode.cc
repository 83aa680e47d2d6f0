#include "formats/gguf_encode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "formats/base/dtype.h"
#include "formats/base/vector_clones.h"

// Layouts: gguf_blocks.cc. Order of the float32 operations: ggml's quantize_row_*_ref.

namespace spikefold {
namespace {

constexpr int kBlock = 32;

SF_VECTOR_INLINE void StoreHalf(float value, uint8_t* out) {
  const uint16_t half = FloatToF16(value);
  std::memcpy(out, &half, 2);
}

// Low four bits of element j and of element j + 16 share byte j.
void PackNibbles(const int32_t code[kBlock], uint8_t* out) {
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<uint8_t>((code[j] & 15) | (code[16 + j] & 15) << 4);
  }
}
void PackFifthBits(const int32_t code[kBlock], uint8_t* out) {
  uint32_t high = 0;
  for (int j = 0; j < kBlock; ++j) high |= static_cast<uint32_t>(code[j] >> 4 & 1) << j;
  std::memcpy(out, &high, 4);
}

// 0 also for steps so small that 1 / d is infinite, which no code times float16 could hold.
SF_VECTOR_INLINE float Inverse(float d) {
  const float inverse = 1.0f / d;
  return (std::bit_cast<uint32_t>(inverse) & 0x7f800000u) == 0x7f800000u ? 0.0f : inverse;
}

// Codes around zero: the value of largest magnitude becomes the lowest code, which reaches further than the
// highest.
float RoundCentered(const float* x, int half_range, int32_t code[kBlock]) {
  float extreme = 0;
  for (int j = 0; j < kBlock; ++j) {
    if (std::fabs(x[j]) > std::fabs(extreme)) extreme = x[j];
  }
  const float d = extreme / static_cast<float>(-half_range), inverse = Inverse(d);
  for (int j = 0; j < kBlock; ++j) {
    const int q = static_cast<int>(x[j] * inverse + (static_cast<float>(half_range) + 0.5f));
    code[j] = std::min(2 * half_range - 1, q);
  }
  return d;
}

struct Affine {
  float d, min;
};
Affine RoundAffine(const float* x, int levels, int32_t code[kBlock]) {
  const auto [low, high] = std::minmax_element(x, x + kBlock);
  const float d = (*high - *low) / static_cast<float>(levels), inverse = Inverse(d);
  for (int j = 0; j < kBlock; ++j) {
    // As ggml rounds. NOLINTNEXTLINE(bugprone-incorrect-roundings)
    code[j] = std::min(levels, static_cast<int>((x[j] - *low) * inverse + 0.5f));
  }
  return {d, *low};
}

// std::round() for |x| <= 128, halves away from zero: the sum with the largest number below a half is rounded
// to a whole number from x.5 on, and not before (all such x were tried).
SF_VECTOR_INLINE int32_t RoundHalfAway(float x) {
  const uint32_t sign = std::bit_cast<uint32_t>(x) & 0x80000000u;
  return static_cast<int32_t>(x + std::bit_cast<float>(0x3effffffu | sign));
}

// So many blocks go side by side: their divisions take as long as one's.
constexpr size_t kTogether = 16;

SF_VECTOR_INLINE void EncodeQ8_0Blocks(const float* x, size_t count, uint8_t* out) {
  uint32_t largest[kTogether] = {};  // magnitudes order as their bits do
  for (size_t b = 0; b < count; ++b) {
    uint32_t most = 0;
    for (size_t j = 0; j < kBlock; ++j) {
      most = std::max(most, std::bit_cast<uint32_t>(x[b * kBlock + j]) & 0x7fffffffu);
    }
    largest[b] = most;
  }
  float inverse[kTogether];
  uint16_t half[kTogether];
  for (size_t b = 0; b < kTogether; ++b) {
    const float d = std::bit_cast<float>(largest[b]) / 127.0f;
    inverse[b] = Inverse(d);
    half[b] = FloatToF16(d);
  }
  for (size_t b = 0; b < count; ++b, x += kBlock, out += 2 + kBlock) {
    int8_t codes[kBlock];
    for (size_t j = 0; j < kBlock; ++j) codes[j] = static_cast<int8_t>(RoundHalfAway(x[j] * inverse[b]));
    std::memcpy(out, &half[b], 2);
    std::memcpy(out + 2, codes, sizeof codes);
  }
}
SF_VECTOR_CLONES void EncodeQ8_0(const float* x, size_t num_blocks, uint8_t* out) {
  for (; num_blocks >= kTogether; num_blocks -= kTogether) {
    EncodeQ8_0Blocks(x, kTogether, out);
    x += kTogether * kBlock;
    out += kTogether * (2 + kBlock);
  }
  EncodeQ8_0Blocks(x, num_blocks, out);
}

void EncodeBlock(GgmlType type, const float* x, uint8_t* out) {
  int32_t code[kBlock];
  switch (type) {
    case GgmlType::kQ4_0:
      StoreHalf(RoundCentered(x, 8, code), out);
      return PackNibbles(code, out + 2);
    case GgmlType::kQ5_0:
      StoreHalf(RoundCentered(x, 16, code), out);
      PackFifthBits(code, out + 2);
      return PackNibbles(code, out + 6);
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_1: {
      const bool five = type == GgmlType::kQ5_1;
      const Affine a = RoundAffine(x, five ? 31 : 15, code);
      StoreHalf(a.d, out);
      StoreHalf(a.min, out + 2);
      if (five) PackFifthBits(code, out + 4);
      return PackNibbles(code, out + (five ? 8 : 4));
    }
    default:
      std::abort();  // a caller's bug: CanEncode() was not asked
  }
}

}  // namespace

bool CanEncode(GgmlType type) {
  constexpr GgmlType kTypes[] = {GgmlType::kF32,  GgmlType::kF16,  GgmlType::kBF16, GgmlType::kQ4_0,
                                 GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ8_0};
  return std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes);
}

void EncodeGguf(GgmlType type, absl::Span<const float> values, char* out) {
  if (type == GgmlType::kF32) {
    std::memcpy(out, values.data(), values.size() * 4);
    return;
  }
  if (type == GgmlType::kF16 || type == GgmlType::kBF16) {
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = type == GgmlType::kF16 ? FloatToF16(values[i]) : FloatToBf16(values[i]);
      std::memcpy(out + 2 * i, &half, 2);
    }
    return;
  }
  if (type == GgmlType::kQ8_0) {
    return EncodeQ8_0(values.data(), values.size() / kBlock, reinterpret_cast<uint8_t*>(out));
  }
  const int block_bytes = FindGgmlType(static_cast<uint32_t>(type))->block_bytes;
  for (size_t begin = 0; begin < values.size(); begin += kBlock, out += block_bytes) {
    EncodeBlock(type, values.data() + begin, reinterpret_cast<uint8_t*>(out));
  }
}

void EncodeCodeBlock(GgmlType type, float scale, const int8_t* codes, int zero, char* out) {
  uint8_t* bytes = reinterpret_cast<uint8_t*>(out);
  StoreHalf(scale, bytes);
  int32_t code[kBlock];
  switch (type) {
    case GgmlType::kQ4_1:
      for (int j = 0; j < kBlock; ++j) code[j] = codes[j] + 8;
      // From the stored scale, so that the zero point stays (nearly) zero.
      StoreHalf(-F16ToFloat(FloatToF16(scale)) * static_cast<float>(zero + 8), bytes + 2);
      return PackNibbles(code, bytes + 4);
    case GgmlType::kQ4_0:
      for (int j = 0; j < kBlock; ++j) code[j] = codes[j] - zero + 8;
      return PackNibbles(code, bytes + 2);
    default:
      for (int j = 0; j < kBlock; ++j) {
        bytes[2 + j] = static_cast<uint8_t>(static_cast<int8_t>(codes[j] - zero));
      }
  }
}

}  // namespace spikefold
