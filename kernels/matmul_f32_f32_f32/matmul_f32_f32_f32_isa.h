// Between the dispatcher and the targets: a function a target.
#pragma once

#include <cstdint>

#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

// Computes rows [m_begin, m_end) of the outputs of panels [p_begin, p_end).
using TileFunction = void(const Params& params, int64_t m_begin, int64_t m_end, int64_t p_begin,
                          int64_t p_end);
TileFunction TilesPlain, TilesAvx2, TilesAvx512;

}  // namespace spikefold::kernels::matmul_f32_f32_f32
