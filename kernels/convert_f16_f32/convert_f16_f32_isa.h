#pragma once

#include <cstdint>

namespace spikefold::kernels::convert_f16_f32 {

inline constexpr float kMaxF16 = 65504.0f;

// Whole vectors only; they return how many values they took.
int64_t NarrowAvx2(const float* x, int64_t count, uint16_t* f16);
int64_t WidenAvx2(const uint16_t* f16, int64_t count, float* x);

}  // namespace spikefold::kernels::convert_f16_f32
