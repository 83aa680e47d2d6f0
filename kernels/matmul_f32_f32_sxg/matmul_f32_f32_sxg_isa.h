// Between the dispatcher and the targets: one call made ready, and a function a target.
#pragma once

#include <cstdint>

#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {

struct Call {
  const Params& params;
  const TailOperands& tail;
  GroupView view;
  const float* x = nullptr;  // [m, x_stride]: rows that hold whole units
  int64_t x_stride = 0;
};
// Computes rows [m_begin, m_end) of the channels of panels [p_begin, p_end), super weights aside.
using TileFunction = void(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end);
TileFunction TilesPlain, TilesAvx2, TilesAvx512;

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
