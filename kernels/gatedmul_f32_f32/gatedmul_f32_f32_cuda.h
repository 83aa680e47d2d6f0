// gatedmul_f32_f32 on a GPU: the same Params with device addresses.
// Exact     to some 6 + 1.2 |u| units in the last place, gate / (1 + exp(-u)) * up, u = gate or, of GELU,
//           1.6 (gate + 0.045 gate^3): more than 12 only where exp(-u) or its inverse is hardly anything.
// Targets   sm_80.
#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.h"

namespace spikefold::kernels::gatedmul_f32_f32 {

absl::Status RunCuda(const Params& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::gatedmul_f32_f32
