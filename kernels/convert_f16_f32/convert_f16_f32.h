// convert_f16_f32: float32 <-> f16, rounded to nearest, ties to even; magnitudes above 65504 (infinity too)
// become 65504, NaN stays NaN.
//
// Requires  no alignment beyond the element's; any count.
// Moves     6 bytes a value; bound by memory.
// Exact     equal on every ISA and to the reference.
// Targets   AVX2 (F16C), plain C++.
#pragma once

#include <cstdint>

namespace spikefold::kernels::convert_f16_f32 {

void Narrow(const float* x, int64_t count, uint16_t* f16);
void Widen(const uint16_t* f16, int64_t count, float* x);
// Plain loops: the definition.
void NarrowPlain(const float* x, int64_t count, uint16_t* f16);
void WidenPlain(const uint16_t* f16, int64_t count, float* x);

}  // namespace spikefold::kernels::convert_f16_f32
