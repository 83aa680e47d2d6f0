// Scales of all groups of a row: each by itself, or as whole multiples of one scale of the row
// (WeightGrid::multiples). Then factor * (code - zero) is an INT8 code with a scale a channel, whatever the
// code, and products with INT8 rows stay integers over all of K (kernels/runtime/two_level.h).
#pragma once

#include <cstdint>

#include "quant/rounding/weight_grid.h"

namespace spikefold {

// Of `row` [k] into `out` [groups]. By itself: ChooseScale(). As multiples: zeros and wanted scales are
// ChooseScale()'s; of some scales of the row, each with its groups' better factors (those whose group does
// not clip, unless grid.scales is kMse), the one that minimises the sum of the groups' errors. Returns that
// scale of the row (1: not as multiples).
float ChooseRowScales(const float* row, const float* importance, int64_t k, const WeightGrid& grid,
                      GroupScale* out);

// The largest factor of a group with this zero: none of its codes leaves -127 to 127.
int MaxFactor(float zero, const WeightGrid& grid);

// Scales fitted to codes that stay. The loss of a row is quadratic in them: changing them by d changes it by
// d A d - 2 b d.
struct ScaleFit {
  int64_t groups = 0;
  const double* a = nullptr;    // [groups, groups]
  double* b = nullptr;          // [groups]; spoilt
  const float* zero = nullptr;  // [groups]
  float* scale = nullptr;       // [groups] in and out
};
// By themselves: those that the file can hold next to the best ones, if they are better. As multiples of
// `unit`, which becomes the new one: the row's scale moves to the least loss, then each factor by whole
// steps, while that lowers the loss.
void FitScales(const ScaleFit& fit, float& unit, const WeightGrid& grid);

}  // namespace spikefold
