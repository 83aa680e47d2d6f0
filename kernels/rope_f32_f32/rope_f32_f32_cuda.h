// rope_f32_f32 on a GPU with what surrounds it for queries and keys: RMSNorm of each head (where there is a
// gain) before, a shared rotation (where there is one) after. In place.
// Method    a block of threads a head of a row, in shared memory; queries and keys in one launch. The
//           embedding alone on many rows: a block a row, a warp a head, in registers.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"

namespace spikefold::kernels::rope_f32_f32 {

struct CudaSide {
  int64_t num_heads = 0;
  float* x = nullptr;           // [m, num_heads, head_dim]
  const float* gain = nullptr;  // [head_dim] or null
};
struct CudaParams {  // device addresses
  int64_t m = 0, head_dim = 0;
  CudaSide q, k;
  float eps = 0;
  const float* cos = nullptr;  // [positions, head_dim/2]
  const float* sin = nullptr;
  const int32_t* positions = nullptr;   // device: [m]; null: 0, 1, ...
  hadamard_f32_f32::CudaPlan rotation;  // block == head_dim, or no factors
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::rope_f32_f32
