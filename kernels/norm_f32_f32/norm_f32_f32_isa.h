// Between the dispatcher and the targets: a function a target.
#pragma once

#include <cstdint>

#include "kernels/norm_f32_f32/norm_f32_f32.h"

namespace spikefold::kernels::norm_f32_f32 {

using RowsFunction = void(const Params& params, int64_t m_begin, int64_t m_end);
RowsFunction RowsPlain, RowsAvx2, RowsAvx512;

}  // namespace spikefold::kernels::norm_f32_f32
