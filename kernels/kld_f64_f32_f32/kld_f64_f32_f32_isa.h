// Between the dispatcher and the targets: a function a target.
#pragma once

#include <cstdint>

#include "kernels/kld_f64_f32_f32/kld_f64_f32_f32.h"

namespace spikefold::kernels::kld_f64_f32_f32 {

using RowFunction = RowResult(const float* p, const float* q, int64_t n);
RowFunction RowPlain, RowAvx2, RowAvx512;

}  // namespace spikefold::kernels::kld_f64_f32_f32
