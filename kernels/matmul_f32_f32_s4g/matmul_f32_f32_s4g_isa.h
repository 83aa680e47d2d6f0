// Between the dispatcher and the targets: one call made ready, and a function a target.
#pragma once

#include <cstdint>

#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g.h"

namespace spikefold::kernels::matmul_f32_f32_s4g {

struct Call {
  const Params& params;
  const TailOperands& tail;
  matmul_f32_s8r_s4g::PackedView view;
  int64_t num_groups = 0;
};
// Computes rows [m_begin, m_end) of the channels of panels [p_begin, p_end), super weights aside.
using TileFunction = void(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end);
TileFunction TilesPlain, TilesAvx2, TilesAvx512;

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
