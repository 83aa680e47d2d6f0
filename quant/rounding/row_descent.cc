#include "quant/rounding/row_descent.h"

#include <algorithm>
#include <cmath>

namespace spikefold {
namespace {

// The code of column j moves by `step`.
void Move(const RowState& row, int64_t j, float step) {
  const float change = row.scale[j / row.width] * step;
  row.code[j] += step;
  row.error[j] -= change;
  const float* h = row.h + j * row.k;
  for (int64_t i = 0; i < row.k; ++i) row.gradient[i] -= change * h[i];
  row.gradient[j] -= change * row.damping;
}

}  // namespace

int64_t DescendRow(const RowState& row, int max_passes) {
  int64_t moved = 0;
  for (int pass = 0; pass < max_passes; ++pass) {
    const int64_t before = moved;
    for (int64_t g = 0; g < row.k / row.width; ++g) {
      const float inverse = 1.0f / row.scale[g];
      for (int64_t j = g * row.width; j < (g + 1) * row.width; ++j) {
        const float curvature = row.h[j * row.k + j] + row.damping;
        // The best place in units of codes; within half a step of the present one nothing is better.
        const float step = row.gradient[j] * inverse / curvature;
        if (std::fabs(step) <= 0.5f || row.fixed[j] != 0) continue;
        const float code = std::clamp(std::nearbyint(row.code[j] + step), row.lo[g], row.hi[g]);
        if (code == row.code[j]) continue;
        Move(row, j, code - row.code[j]);
        ++moved;
      }
    }
    if (moved == before) break;
  }
  return moved;
}

}  // namespace spikefold
