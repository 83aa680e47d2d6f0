// Between the dispatcher and the targets: a path found, a function a target.
#pragma once

#include <cstdint>

#include "kernels/trellis_s8_f32/trellis_s8_f32.h"

namespace spikefold::kernels::trellis_s8_f32 {

inline constexpr int64_t kCostPad = 16;  // costs may be read so far beyond the last
inline constexpr float kNever = 1e30f;

// `cost` [n + 1][P], P = 2^(12-b), and kCostPad more: row 0 holds the costs before the first step, row i + 1
// gets those of the states of row i by their low bits. Writes params.states.
using SearchFunction = void(const Params& params, float* cost);
SearchFunction SearchPlain, SearchAvx2, SearchAvx512;

}  // namespace spikefold::kernels::trellis_s8_f32
