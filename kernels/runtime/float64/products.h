// Products of matrices in float64, of operands with any strides.
#pragma once

#include <cstdint>

namespace spikefold {

// y[m * ldy + n] = sum_a x[a * step + m * ldx] * b[a * ldb + n] for m < count, n < width; terms are added in
// the order of a, whatever the tile.
struct Product {
  const double *x, *b;
  double* y;
  int64_t step, ldx, ldb, ldy, depth;
};
void Products(const Product& p, int64_t count, int64_t width);

}  // namespace spikefold
