// Rounding, clamping and nibble packing: defined once for quantizer, reference and kernels.
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

// Nearest integer, ties to even (the default rounding mode), clamped to [lo, hi]. NaN gives lo.
SF_HOST_DEVICE inline int RoundClamp(float value, int lo, int hi) {
  const float r = rintf(value);
  return r >= static_cast<float>(hi) ? hi : (r > static_cast<float>(lo) ? static_cast<int>(r) : lo);
}
SF_HOST_DEVICE inline int8_t QuantizeS8(float value, float inv_scale) {
  return static_cast<int8_t>(RoundClamp(value * inv_scale, -kS8Max, kS8Max));
}

}  // namespace spikefold::kernels
