#include "kernels/runtime/float64/transform.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/base/hadamard.h"
#include "formats/base/vector_clones.h"
#include "kernels/runtime/float64/products.h"

namespace spikefold {
namespace {

constexpr int64_t kColumns = 64;  // of a slice of points

SF_VECTOR_CLONES void Butterflies(double* x, int64_t count, int64_t distance) {
  for (int64_t group = 0; group < count; group += 2 * distance) {
    double* a = x + group;
    double* b = a + distance;
    for (int64_t i = 0; i < distance; ++i) {
      const double sum = a[i] + b[i];
      b[i] = a[i] - b[i];
      a[i] = sum;
    }
  }
}

constexpr int64_t kLanes = 8, kSlice = 32;  // sums of so many columns stay in registers

// Columns [0, width) of all points: y[c * distance + i] = sum_a x[a * kColumns + i] * table[a][c].
SF_VECTOR_INLINE void SignedSums(const std::vector<int8_t>& table, int64_t order, const double* x,
                                 int64_t width, int64_t distance, double* y) {
  using Lanes = double __attribute__((vector_size(kLanes * sizeof(double))));
  for (int64_t c = 0; c < order; ++c, y += distance) {
    if (width == kSlice) {
      Lanes sum[kSlice / kLanes] = {};
      for (int64_t a = 0; a < order; ++a) {
        const double sign = table[static_cast<size_t>(a * order + c)];
        for (int64_t i = 0; i < kSlice / kLanes; ++i) {
          Lanes lanes;
          std::memcpy(&lanes, x + a * kColumns + i * kLanes, sizeof lanes);
          sum[i] += sign * lanes;
        }
      }
      std::memcpy(y, sum, sizeof sum);
    } else {
      double sum[kSlice] = {};
      for (int64_t a = 0; a < order; ++a) {
        const double sign = table[static_cast<size_t>(a * order + c)];
        for (int64_t i = 0; i < width; ++i) sum[i] += sign * x[a * kColumns + i];
      }
      std::copy_n(sum, width, y);
    }
  }
}

// y[c] = sum_a x[a] * H[a][c] over points that lie `distance` apart, in slices of kColumns.
SF_VECTOR_CLONES void TableProducts(double* x, int64_t count, int64_t order, int64_t distance,
                                    std::vector<double>& scratch) {
  const std::vector<int8_t>& table = HadamardTable(order);
  scratch.resize(static_cast<size_t>(order * kColumns));
  for (int64_t group = 0; group < count; group += order * distance) {
    for (int64_t at = 0; at < distance; at += kColumns) {
      const int64_t width = std::min(kColumns, distance - at);
      double* points = x + group + at;
      for (int64_t a = 0; a < order; ++a) {
        std::copy_n(points + a * distance, width, scratch.data() + a * kColumns);
      }
      for (int64_t i = 0; i < width; i += kSlice) {
        SignedSums(table, order, scratch.data() + i, std::min(kSlice, width - i), distance, points + i);
      }
    }
  }
}

}  // namespace

Transform Transform::Diagonal(std::vector<double> scale) {
  Transform t;
  t.scale_ = std::move(scale);
  return t;
}

Transform Transform::Rotate(const Rotation& r) {
  Transform t;
  t.factors_ = r.factors;
  const double unit = 1 / std::sqrt(static_cast<double>(r.block()));
  for (const int8_t sign : r.signs) t.scale_.push_back(sign * unit);
  return t;
}

Transform Transform::Dense(std::shared_ptr<const std::vector<double>> matrix, int64_t order) {
  Transform t;
  t.dense_ = std::move(matrix);
  t.order_ = order;
  return t;
}

void Transform::ApplyRows(double* rows, int64_t count, int64_t width) const {
  if (dense_ == nullptr) {
    for (int64_t row = 0; row < count; ++row) Apply(rows + row * width, width, 1);
    return;
  }
  std::vector<double> y(static_cast<size_t>(count * order_));
  for (int64_t block = 0; block < width; block += order_) {
    Products({rows + block, dense_->data(), y.data(), 1, width, order_, order_, order_}, count, order_);
    for (int64_t row = 0; row < count; ++row) {
      std::copy_n(y.data() + row * order_, order_, rows + row * width + block);
    }
  }
}

void Transform::Apply(double* x, int64_t width, int64_t inner) const {
  if (dense_ != nullptr) {
    if (inner == 1) return ApplyRows(x, 1, width);
    std::vector<double> y(static_cast<size_t>(order_ * inner));
    for (double* block = x; block < x + width * inner; block += order_ * inner) {
      Products({dense_->data(), block, y.data(), order_, 1, inner, inner, order_}, order_, inner);
      std::copy(y.begin(), y.end(), block);
    }
    return;
  }
  const int64_t period = static_cast<int64_t>(scale_.size());
  for (int64_t i = 0; i < width; ++i) {
    const double scale = scale_[static_cast<size_t>(i % period)];
    for (double* v = x + i * inner; v < x + (i + 1) * inner; ++v) *v *= scale;
  }
  if (factors_.empty()) return;
  // Every factor acts on points a fixed distance apart, so blocks and heads need no loop of their own.
  std::vector<double> scratch;
  int64_t distance = inner;
  for (; distance < factors_.back() * inner; distance *= 2) Butterflies(x, width * inner, distance);
  for (size_t f = factors_.size() - 1; f-- > 0; distance *= factors_[f]) {
    TableProducts(x, width * inner, factors_[f], distance, scratch);
  }
}

}  // namespace spikefold
