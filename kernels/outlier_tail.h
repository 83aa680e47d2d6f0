// What every quantized matmul adds after its integer sum: kept columns, super weights, bias.
//
//   Y[m,n] += sum_c xo[m,c] * bf16(wo[n,c])  +  sum_s value_s * xs[m,s] (row_s == n)  +  bias[n]
//
// Kept columns carry code 0 in the integer operands, so both halves simply add.
#pragma once

#include <cstdint>

namespace spikefold::kernels {

struct OutlierTail {
  int64_t num_kept = 0;              // r
  const float* kept_x = nullptr;     // [m, r] values of the kept columns, already rounded to bf16
  const uint16_t* kept_w = nullptr;  // [n, r] bf16
  int64_t num_super = 0;             // s
  const float* super_x = nullptr;    // [m, super_x_stride]: x at the super columns, rounded to bf16
  int64_t super_x_stride = 0;
  const int32_t* super_slot = nullptr;  // [s] which entry of super_x's row
  const int32_t* super_row = nullptr;   // [s] output channel
  const float* super_value = nullptr;   // [s]
  const float* bias = nullptr;          // [n] or null
};

}  // namespace spikefold::kernels
