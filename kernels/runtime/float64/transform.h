// Square matrices that rows of weights or values are multiplied by, v <- v * F, in float64.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "formats/rotation.h"

namespace spikefold {

class Transform {
 public:
  static Transform Diagonal(std::vector<double> scale);
  // One a head: repeated along a row whose width is a multiple of the rotation's.
  static Transform Rotate(const Rotation& rotation);
  // Any square matrix, [order, order] row-major, repeated along the row likewise.
  static Transform Dense(std::shared_ptr<const std::vector<double>> matrix, int64_t order);
  // x is [width, inner]: each of the `inner` columns is a row vector v that becomes v * F. inner = 1: one
  // row.
  void Apply(double* x, int64_t width, int64_t inner) const;
  // The same for `count` rows of `width` that lie one behind the other.
  void ApplyRows(double* rows, int64_t count, int64_t width) const;
  int64_t order() const { return order_; }  // of a dense matrix; 0: it is none

 private:
  std::vector<double> scale_;                         // the diagonal; of a rotation signs / sqrt(block)
  std::vector<int64_t> factors_;                      // empty: diagonal
  std::shared_ptr<const std::vector<double>> dense_;  // not null: this, and nothing above
  int64_t order_ = 0;
};

}  // namespace spikefold
