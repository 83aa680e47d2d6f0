// Between the dispatcher and the targets: one call made ready, and a function a target.
#pragma once

#include <cstdint>

#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {

struct Call {
  const Params& params;
  const TailOperands& tail;
  GroupView view;
  const int8_t* x = nullptr;  // [m, x_stride]: rows that hold whole units
  int64_t x_stride = 0;
  // [m, num_groups] -s * sum of the group's x codes; s = 1 with zero points of W, else 2^(bits-1): the sum of
  // unsigned codes starts from offset * (zero + 2^(bits-1)) or from offset.
  const int32_t* offset = nullptr;
  int64_t x_scale_row = 1;         // x_scale of row m, group g: [m * x_scale_row + g / groups_per_x_scale]
  int64_t groups_per_x_scale = 0;  // 0: a scale a row, applied at the end
};
// Computes rows [m_begin, m_end) of the channels of panels [p_begin, p_end), super weights aside.
using TileFunction = void(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end);
TileFunction TilesPlain, TilesAvx2, TilesAvx512Vnni, TilesAvx512Bf16;

// With params.w_scale: a panel's codes times their groups' factors as matmul_f32_s8r_s8c packs them,
// into w [k / 4][32][4], K padded to whole units.
void ExpandAvx512Vnni(const Call& call, int64_t panel, uint8_t* w);

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
