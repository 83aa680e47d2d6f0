// Element types of tensors on disk and in memory, and the 16-bit float conversions.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace spikefold {

// The types that Spikefold reads and writes as plain tensors. Names are those of safetensors.
enum class DType : uint8_t { kBool, kU8, kI8, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };

int64_t DTypeBytes(DType dtype);
absl::string_view DTypeName(DType dtype);  // "F32", "BF16", ...
std::optional<DType> DTypeFromName(absl::string_view name);

// bfloat16 <-> float32. Rounds to nearest, ties to even; NaN stays NaN.
inline float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
inline uint16_t FloatToBf16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
// IEEE float16 <-> float32, exact subnormals; rounds to nearest, ties to even; overflow gives infinity.
float F16ToFloat(uint16_t bits);
uint16_t FloatToF16(float value);

}  // namespace spikefold
