// Between the dispatcher and the targets: one call made ready, and a function a target.
#pragma once

#include <cstdint>

#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {

// x [m, k] as whole numbers q, |q| <= 2^22, of a unit a row, in bytes: q = 65536 b[2] + 256 b[1] + b[0].
constexpr int kBytes = 3;
constexpr int64_t kMaxBytesK = 65536;  // sums of 128 * 127 * K stay far from the ends of int32

struct Call {
  const Params& params;
  const TailOperands& tail;
  int64_t k4 = 0;            // steps of four codes
  const float* x = nullptr;  // [m, x_stride], readable to 4 * k4 in each row, zero beyond k
  int64_t x_stride = 0;
  const int8_t* bytes = nullptr;    // [m, kBytes, 4 * k4], zero beyond k
  const float* unit = nullptr;      // [m] a power of two; NaN: the row holds a value that is not finite
  const int32_t* offset = nullptr;  // [m, kBytes] -128 * sum of the row's bytes
};
// Computes rows [m_begin, m_end) of the channels of panels [p_begin, p_end), super weights aside.
using TileFunction = void(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end);
TileFunction TilesPlain, TilesAvx2, TilesAvx512;  // read x
TileFunction TilesAvx512Vnni, TilesAvx512Amx;     // read bytes

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
