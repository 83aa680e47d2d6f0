#include <bit>
#include <cmath>

#include "kernels/trellis_s8_f32/trellis_s8_f32_isa.h"

namespace spikefold::kernels::trellis_s8_f32 {

void ForwardPlain(const Params& params, float* cost, uint8_t* back) {
  const int b = params.bits;
  const int64_t paths = int64_t{1} << (kStateBits - b), half = paths + kCostPad;
  for (int64_t i = 0; i < params.n; ++i) {
    const float* from = cost + i % 2 * half;
    const float x = params.target[i], scale = params.scale[i];
    float* to = cost + (i + 1) % 2 * half;
    for (int64_t p = 0; p < paths; ++p) {
      uint32_t best = ~uint32_t{0};
      for (uint32_t top = 0; top < uint32_t{1} << b; ++top) {
        const int64_t state = top * paths + p;
        const float e = std::fma(-scale, params.levels[state], x);
        const float sum = std::fma(e, e, from[state >> b]);
        const uint32_t tagged = (std::bit_cast<uint32_t>(sum) & ~kTagMask) | top;
        if (tagged < best) best = tagged;
      }
      to[p] = std::bit_cast<float>(best);
      back[i * paths + p] = static_cast<uint8_t>(best & kTagMask);
    }
  }
}

}  // namespace spikefold::kernels::trellis_s8_f32
