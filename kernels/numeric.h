// Rounding, clamping, scales and nibble packing: defined once for quantizer, reference and kernels.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define SF_HOST_DEVICE __host__ __device__
#else
#define SF_HOST_DEVICE
#endif

namespace spikefold::kernels {

inline constexpr int kS8Max = 127;  // codes are in [-127, 127]: -128 is never produced
inline constexpr int kS4Min = -8, kS4Max = 7;

// Codes of activations: one range for 8 bits, with a zero point or without (kernels negate codes).
SF_HOST_DEVICE inline int ActivationMax(int bits) { return (1 << (bits - 1)) - 1; }
SF_HOST_DEVICE inline int ActivationMin(int bits, bool symmetric) {
  return symmetric || bits == 8 ? -ActivationMax(bits) : -ActivationMax(bits) - 1;
}

// A row whose largest magnitude lies below this counts as zeros: 1/scale must stay finite and normal.
inline constexpr float kMinAmax = 0x1p-119f;  // the power of two above 127 * 2^-126

// Nearest integer, ties to even (the default rounding mode), clamped to [lo, hi]. NaN gives lo.
SF_HOST_DEVICE inline int RoundClamp(float value, int lo, int hi) {
  const float r = rintf(value);
  return r >= static_cast<float>(hi) ? hi : (r > static_cast<float>(lo) ? static_cast<int>(r) : lo);
}

// Scale of a symmetric row whose largest code is `code_max`: amax / code_max, or 1 for a row of zeros.
SF_HOST_DEVICE inline float SymmetricScale(float amax, int code_max) {
  return amax >= kMinAmax ? amax / static_cast<float>(code_max) : 1.0f;
}

SF_HOST_DEVICE inline float S8Scale(float amax) { return SymmetricScale(amax, kS8Max); }

// Scale and zero point of a row that takes values in [low, high], low <= 0 <= high: 0 is a code, so that
// x = scale * (code - zero) holds for it exactly.
struct AsymmetricScale {
  float scale;
  int zero;
};
SF_HOST_DEVICE inline AsymmetricScale AsymmetricScaleOf(float low, float high, int code_min, int code_max) {
  const float range = high - low;
  if (!(range >= 2 * kMinAmax)) return {1.0f, 0};
  const float scale = range / static_cast<float>(code_max - code_min);
  // The nearest to code_min - low / scale.
  const float r = rintf(static_cast<float>(code_min) - low / scale);
  const int zero = r >= static_cast<float>(code_max) ? code_max : static_cast<int>(r);
  return {scale, zero < code_min ? code_min : zero};
}

// The code of an activation. `inv_scale` is 1.0f / scale, rounded once: activations are multiplied, not
// divided, everywhere (kernels, simulation), so that all of them agree to the last bit.
SF_HOST_DEVICE inline int8_t QuantizeS8(float value, float inv_scale) {
  return static_cast<int8_t>(RoundClamp(value * inv_scale, -kS8Max, kS8Max));
}

// Two 4-bit codes in [-8, 7] in one byte, each stored as code + 8; `low` in bits 0..3.
SF_HOST_DEVICE inline uint8_t PackNibbles(int low, int high) {
  return static_cast<uint8_t>((low + 8) | ((high + 8) << 4));
}
SF_HOST_DEVICE inline int LowNibble(uint8_t pair) { return (pair & 15) - 8; }
SF_HOST_DEVICE inline int HighNibble(uint8_t pair) { return (pair >> 4) - 8; }

}  // namespace spikefold::kernels
