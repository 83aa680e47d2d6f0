// kld_f64_f32_f32 on a GPU, where both models' logits lie.
// Method    a block takes a row: three passes, for the largest values, the sums of exps and the divergence,
// all
//           but the first from L2. exps in float32, sums in float64, added up in a fixed order.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"

namespace spikefold::kernels::kld_f64_f32_f32 {

struct CudaParams {  // device addresses
  int64_t m = 0, n = 0;
  const float* p = nullptr;         // [m, n]
  const float* q = nullptr;         // [m, n]; p itself: kld is 0
  const int32_t* target = nullptr;  // [m], each from 0 to n - 1
  TargetRow* out = nullptr;         // [m]
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::kld_f64_f32_f32
