// Between the dispatcher and the targets: one call made ready, and a function a target.
#pragma once

#include <cstdint>

#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {

struct Call {
  const Params& params;
  const TailOperands& tail;
  const uint8_t* w = nullptr;  // packed panels, from this one on
  int64_t first_panel = 0;
  int64_t k4 = 0;             // steps of four codes
  const int8_t* x = nullptr;  // [m, x_stride], readable to 4 * k4 in each row
  int64_t x_stride = 0;
  const int32_t* offset = nullptr;  // [m] -128 * sum of the row's codes
};
// Computes rows [m_begin, m_end) of the channels of panels [p_begin, p_end), super weights aside.
using TileFunction = void(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end);
TileFunction TilesPlain, TilesAvx2, TilesAvx512Vnni, TilesAvx512Bf16, TilesAvx512Amx;
TileFunction* ChooseTarget();  // of the active ISA
// Most rows of a chunk (TileGrid::row_block).
int64_t RowBlock();

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
