#include "kernels/trellis_s8_f32/trellis_s8_f32_simd.h"

namespace spikefold::kernels::trellis_s8_f32 {

void SearchAvx2(const Params& params, float* cost) { Search(params, cost); }

}  // namespace spikefold::kernels::trellis_s8_f32
