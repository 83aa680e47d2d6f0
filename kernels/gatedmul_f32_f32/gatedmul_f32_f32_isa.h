// Between the dispatcher and the targets: a function a target.
#pragma once

#include <cstdint>

#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.h"

namespace spikefold::kernels::gatedmul_f32_f32 {

using RangeFunction = void(const Params& params, int64_t begin, int64_t end);
RangeFunction RangePlain, RangeAvx2, RangeAvx512;

}  // namespace spikefold::kernels::gatedmul_f32_f32
