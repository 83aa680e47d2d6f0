// A tensor of the model that a fold rewrites: multiplied by transforms from both sides, in float64.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/base/thread_pool.h"
#include "formats/tensor.h"
#include "kernels/runtime/float64/transform.h"

namespace spikefold {

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
