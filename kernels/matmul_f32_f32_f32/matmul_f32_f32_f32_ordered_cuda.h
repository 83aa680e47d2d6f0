// matmul_f32_f32_f32 on a GPU to the CPU's bits: Y = X W^T or Y += X W^T, both operands row-major.
// Layout    rows of x and w begin at multiples of 16 bytes; what lies between k and the next multiple of 4
//           columns counts and must be zeros in one operand and finite in the other.
// Exact     the order of additions of matmul_f32_f32_f32.h: fused within kSumBlock columns, then blocks in
//           order (behind what y holds, if it is added to).
// Bound     by the FMA rate: 64 sums a thread, k in steps of 16 through two buffers of shared memory.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {

struct OrderedParams {  // device addresses; strides in floats
  int64_t m = 0, n = 0, k = 0;
  const float* x = nullptr;  // [m, k]
  int64_t x_stride = 0;
  const float* w = nullptr;  // [n, k]
  int64_t w_stride = 0;
  float* y = nullptr;  // [m, n]
  int64_t y_stride = 0;
  bool adds = false;  // to what y holds
};
absl::Status RunOrderedCuda(const OrderedParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_f32_f32
