// Square matrices that rows of a weight are multiplied by, v <- v * F, in float64.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/base/thread_pool.h"
#include "formats/rotation.h"
#include "formats/tensor.h"

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

// What becomes of a tensor: W <- L^T * W * R, rounded to float32 once. A bias is a W of one column.
struct Rewrite {
  std::string source;            // the base's tensor
  std::vector<Transform> right;  // R, first one first
  std::vector<Transform> left;   // L
};
// `tensor` is F32 [n, k], or [n] (left only).
void ApplyRewrite(const Rewrite& rewrite, ThreadPool* pool /* may be null */, Tensor* tensor);
// Bytes that this needs beside the tensor [n, k].
int64_t RewriteMemory(const Rewrite& rewrite, ThreadPool* pool /* may be null */, int64_t n, int64_t k);

}  // namespace spikefold
