// gatedmul_f32_f32 on a GPU: the same Params with device addresses. exp is within 2 ulp of the CPU's.
// Targets   sm_80.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.h"

namespace spikefold::kernels::gatedmul_f32_f32 {

absl::Status RunCuda(const Params& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::gatedmul_f32_f32
