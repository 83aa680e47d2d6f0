// Products of codes whose rows have zero points or scales in groups, on a GPU: whatever matmul_f32_s8r_s8c
// and matmul_f32_s8r_sxg do on the CPU with x_zero and x_group. Weights with one scale a channel
// (Linear::group 0) or in groups that lie within those of x. Method    dp4a on tiles of 64x64 outputs: right,
// not fast. Exact     bit for bit the CPU's: its order of roundings. Super weights are added by
// AddSuperWeights. Targets   sm_80.
#pragma once

#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {

struct GridParams {                     // device addresses
  matmul_f32_s8r_s8c::CudaParams base;  // x_scale [m], or [m, k/x_group]
  int64_t x_group = 0;                  // 0: one scale a row
  const int32_t* x_zero = nullptr;      // [m] or null
  // With x_zero, of each linear: [n] sums of a row's codes (group 0) or of its weights.
  const int32_t* code_sum[cuda::kMaxLinears] = {};
  const float* row_sum[cuda::kMaxLinears] = {};
};
absl::Status RunGrids(const GridParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
