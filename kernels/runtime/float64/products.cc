#include "kernels/runtime/float64/products.h"

#include <cstring>

#include "formats/base/vector_clones.h"

namespace spikefold {
namespace {

constexpr int64_t kRows = 4, kWidth = 16;  // of a tile, whose sums stay in registers

// In explicit vectors: loops over so few lanes the compiler unrolls before it sees vectors in them.
SF_VECTOR_INLINE void Tile(const Product& p, int64_t m, int64_t n) {
  constexpr int64_t kLanes = 8;
  using Lanes =
      double __attribute__((vector_size(kLanes * sizeof(double)), aligned(sizeof(double)), may_alias));
  const auto at = [](auto* x) { return reinterpret_cast<Lanes*>(const_cast<double*>(x)); };
  Lanes low[kRows] = {}, high[kRows] = {};
  for (int64_t a = 0; a < p.depth; ++a) {
    const double* b = p.b + a * p.ldb + n;
    const Lanes b_low = *at(b), b_high = *at(b + kLanes);
    for (int64_t r = 0; r < kRows; ++r) {
      const double x = p.x[a * p.step + (m + r) * p.ldx];
      low[r] += x * b_low;
      high[r] += x * b_high;
    }
  }
  for (int64_t r = 0; r < kRows; ++r) {
    double* y = p.y + (m + r) * p.ldy + n;
    *at(y) = low[r];
    *at(y + kLanes) = high[r];
  }
}

void Point(const Product& p, int64_t m, int64_t n) {
  double sum = 0;
  for (int64_t a = 0; a < p.depth; ++a) sum += p.x[a * p.step + m * p.ldx] * p.b[a * p.ldb + n];
  p.y[m * p.ldy + n] = sum;
}

}  // namespace

// The wider side is read once: of a wide b a panel of columns stays in the second-level cache for all rows.
SF_VECTOR_CLONES void Products(const Product& p, int64_t count, int64_t width) {
  const int64_t whole_rows = count - count % kRows, whole_width = width - width % kWidth;
  if (width > count) {
    for (int64_t n = 0; n < whole_width; n += kWidth) {
      for (int64_t m = 0; m < whole_rows; m += kRows) Tile(p, m, n);
    }
  } else {
    for (int64_t m = 0; m < whole_rows; m += kRows) {
      for (int64_t n = 0; n < whole_width; n += kWidth) Tile(p, m, n);
    }
  }
  for (int64_t m = 0; m < count; ++m) {
    for (int64_t n = m < whole_rows ? whole_width : 0; n < width; ++n) Point(p, m, n);
  }
}

}  // namespace spikefold
