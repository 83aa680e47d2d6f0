// Between the dispatcher and the targets: a function a target.
#pragma once

#include <cstdint>

#include "kernels/rope_f32_f32/rope_f32_f32.h"

namespace spikefold::kernels::rope_f32_f32 {

using RowsFunction = void(const Params& params, int64_t m_begin, int64_t m_end);
RowsFunction RowsPlain, RowsAvx2, RowsAvx512;

}  // namespace spikefold::kernels::rope_f32_f32
