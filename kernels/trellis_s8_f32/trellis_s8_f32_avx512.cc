#include "kernels/trellis_s8_f32/trellis_s8_f32_simd.h"

namespace spikefold::kernels::trellis_s8_f32 {

void ForwardAvx512(const Params& params, float* cost, uint8_t* back) { Forward(params, cost, back); }

}  // namespace spikefold::kernels::trellis_s8_f32
