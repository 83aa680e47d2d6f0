#include "kernels/rope_f32_f32/rope_f32_f32_simd.h"

namespace spikefold::kernels::rope_f32_f32 {

void RowsAvx512(const Params& p, int64_t m_begin, int64_t m_end) { RunRows(p, m_begin, m_end); }

}  // namespace spikefold::kernels::rope_f32_f32
