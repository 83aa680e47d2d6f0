// Between the dispatcher and the targets: all rows forward, a function a target.
#pragma once

#include <cstdint>

#include "kernels/trellis_s8_f32/trellis_s8_f32.h"

namespace spikefold::kernels::trellis_s8_f32 {

inline constexpr uint32_t kTagMask = 63;  // of a cost's bits: the step that led there
inline constexpr int64_t kCostPad = 16;   // costs may be read so far beyond the last
inline constexpr float kNever = 1e30f;

// `cost` [2][P + kCostPad], P = 2^(12-b): the first half holds the costs before row 0, the halves take turns.
// back[i][p] = the top b bits of the state of row i whose low bits are p.
using ForwardFunction = void(const Params& params, float* cost, uint8_t* back);
ForwardFunction ForwardPlain, ForwardAvx2, ForwardAvx512;

}  // namespace spikefold::kernels::trellis_s8_f32
