// Between the dispatcher and the targets: the two passes over a row.
#pragma once

#include <cstdint>

namespace spikefold::kernels::quantize_s8r_f32 {

// How values become codes: q = round(clamp(x * inv_scale, low, high)) + shift.
struct Grid {
  float inv_scale = 1, low = 0, high = 0;  // low and high are integers
  int shift = 0;
  bool count = false;
};
struct Range {
  float low = 0, high = 0;  // 0 lies within
};
struct RowFunctions {
  float (*abs_max)(const float* x, int64_t k);
  Range (*range)(const float* x, int64_t k);
  // Returns how many values rounded to beyond low or high if `count`, else 0.
  int64_t (*convert)(const float* x, int64_t k, const Grid& grid, int8_t* q);
};
extern const RowFunctions kRowsPlain, kRowsAvx2, kRowsAvx512;

}  // namespace spikefold::kernels::quantize_s8r_f32
