#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_simd.h"

namespace spikefold::kernels::gatedmul_f32_f32 {

void RangeAvx512(const Params& p, int64_t begin, int64_t end) { RunRange(p, begin, end); }

}  // namespace spikefold::kernels::gatedmul_f32_f32
