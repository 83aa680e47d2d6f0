// hadamardquant_s8r_f32: the site's rotation and shift, in place, and the site's codes in one pass over the
// rows: hadamard_f32_f32 and quantize_s8r_f32 with their definitions, bit for bit.
// Method    a block a row, which stays in shared memory.
// Requires  4 * k bytes of shared memory: Fits(). No spike threshold.
// Moves     9*k bytes a row.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"

namespace spikefold::kernels::hadamardquant_s8r_f32 {

struct CudaParams {                       // device addresses
  float* x = nullptr;                     // [m, k], in place
  hadamard_f32_f32::CudaPlan rotation;    // num_factors 0: none
  const float* shift = nullptr;           // [k] taken off the rotated rows; null: nothing
  quantize_s8r_f32::CudaParams quantize;  // x is not read
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::hadamardquant_s8r_f32
