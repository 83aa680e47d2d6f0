// Element types of tensors on disk and in memory, and the 16-bit float conversions.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "formats/base/vector_clones.h"

namespace spikefold {

// The types that Spikefold reads and writes as plain tensors. Names are those of safetensors.
enum class DType : uint8_t { kBool, kU8, kI8, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };

int64_t DTypeBytes(DType dtype);
absl::string_view DTypeName(DType dtype);  // "F32", "BF16", ...
std::optional<DType> DTypeFromName(absl::string_view name);

// bfloat16 <-> float32. Rounds to nearest, ties to even; NaN stays NaN.
SF_VECTOR_INLINE float Bf16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
SF_VECTOR_INLINE uint16_t FloatToBf16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
// IEEE float16 <-> float32, exact subnormals; rounds to nearest, ties to even; overflow gives infinity.
// Without branches, so that loops over them are done in vectors.
SF_VECTOR_INLINE float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;  // exact, subnormals too
  const uint32_t finite = std::bit_cast<uint32_t>(scaled), special = magnitude | 0x7f800000u;
  return std::bit_cast<float>(sign | (magnitude >= 0x0f800000u ? special : finite));
}
SF_VECTOR_INLINE uint16_t FloatToF16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value), magnitude = u & 0x7fffffffu;
  const uint32_t rounded = (magnitude + 0xfffu + ((magnitude >> 13) & 1) - 0x38000000u) >> 13;
  // 0.5 has the smallest half as its last bit: the sum is rounded to a multiple of it.
  const float sum = std::bit_cast<float>(magnitude < 0x38800000u ? magnitude : 0) + 0.5f;
  uint32_t half = magnitude < 0x38800000u ? std::bit_cast<uint32_t>(sum) - 0x3f000000u : rounded;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // rounds to 65536 or beyond
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return static_cast<uint16_t>(((u >> 16) & 0x8000u) | half);
}

}  // namespace spikefold
