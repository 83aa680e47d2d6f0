// Operands of float rows times weights: what matmul_f32_f32_f32 and matmul_f32_f32_s8c take on a GPU.
#pragma once

#include <cstdint>

#include "kernels/cuda/outlier_tail_cuda.h"

namespace spikefold::kernels::cuda {

// The columns of x that are carried apart, and the super weights of one linear; of codes only.
struct FloatTail {
  int64_t num_kept = 0;
  const int32_t* kept = nullptr;          // [num_kept]
  const int32_t* super_column = nullptr;  // [form's super columns]
};
struct SuperList {
  int64_t num = 0;
  const int32_t *slot = nullptr, *row = nullptr;
  const float* value = nullptr;
};
struct SimtParams {  // device addresses
  int64_t m = 0, k = 0;
  const float* x = nullptr;           // [.., k]
  const int32_t* rows = nullptr;      // [m] or null: row i is i
  const int32_t* num_rows = nullptr;  // with rows: how many there are, at most m
  FloatTail tail;
  LinearGroup linears;
  SuperList super[kMaxLinears];
};

}  // namespace spikefold::kernels::cuda
