// Between the dispatcher and the targets: one call made ready, and a function a target.
#pragma once

#include <cstdint>

#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

struct Call {
  const Params& params;
  const TailOperands& tail;
  int64_t k4 = 0;            // steps of four codes
  const float* x = nullptr;  // [m, x_stride], readable to 4 * k4 in each row, zero beyond k
  int64_t x_stride = 0;
};
// Computes rows [m_begin, m_end) of the channels of panels [p_begin, p_end), super weights aside.
using TileFunction = void(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end);
TileFunction TilesPlain, TilesAvx2, TilesAvx512;

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
