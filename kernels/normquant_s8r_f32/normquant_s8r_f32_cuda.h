// normquant_s8r_f32: the adds around a norm, the norm, the site's rotation and the site's codes in one pass
// over the rows: norm_f32_f32, hadamard_f32_f32 and quantize_s8r_f32 with their definitions, bit for bit.
// Method    a block a row, which stays in shared memory from the add to the codes; few rows that nobody
//           rotates or takes columns of, in registers.
// Requires  4 * k bytes of shared memory: Fits(). No spike threshold.
// Moves     k * (5 + 8 with a branch) bytes a row (residual in and out, branch in, codes out), and 4*k if the
//           floats are wanted.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"

namespace spikefold::kernels::normquant_s8r_f32 {

struct CudaParams {                       // device addresses
  norm_f32_f32::CudaParams norm;          // gain set; y null: floats are not wanted
  hadamard_f32_f32::CudaPlan rotation;    // num_factors 0: none
  const float* shift = nullptr;           // [k] taken off the rotated rows; null: nothing
  quantize_s8r_f32::CudaParams quantize;  // x is not read
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::normquant_s8r_f32
