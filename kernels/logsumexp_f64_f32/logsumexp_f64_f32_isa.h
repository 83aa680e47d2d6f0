// Between the dispatcher and the targets: a function a target.
#pragma once

#include <cstdint>

#include "kernels/logsumexp_f64_f32/logsumexp_f64_f32.h"

namespace spikefold::kernels::logsumexp_f64_f32 {

using RowFunction = RowResult(const float* x, int64_t n);
RowFunction RowPlain, RowAvx2, RowAvx512;

}  // namespace spikefold::kernels::logsumexp_f64_f32
