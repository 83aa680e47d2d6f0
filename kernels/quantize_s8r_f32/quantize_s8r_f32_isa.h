// Between the dispatcher and the targets: the two passes over a row.
#pragma once

#include <cstdint>

namespace spikefold::kernels::quantize_s8r_f32 {

struct RowFunctions {
  float (*abs_max)(const float* x, int64_t k);
  // q[i] = QuantizeS8(x[i], inv_scale). Returns how many codes were clamped if `count`, else 0.
  int64_t (*convert)(const float* x, int64_t k, float inv_scale, bool count, int8_t* q);
};
extern const RowFunctions kRowsPlain, kRowsAvx2, kRowsAvx512;

}  // namespace spikefold::kernels::quantize_s8r_f32
