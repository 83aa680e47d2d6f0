#include <algorithm>
#include <cmath>

#include "kernels/trellis_s8_f32/trellis_s8_f32_isa.h"

namespace spikefold::kernels::trellis_s8_f32 {
namespace {

// What lies behind row i once it is in `state`.
float CostOf(const Params& params, int64_t i, int64_t state, const float* from) {
  const float e = std::fma(-params.scale[i], params.levels[state], params.target[i]);
  return std::fma(e, e, from[state >> params.bits]);
}

}  // namespace

void SearchPlain(const Params& params, float* cost) {
  const int64_t paths = int64_t{1} << (kStateBits - params.bits);
  for (int64_t i = 0; i < params.n; ++i) {
    const float* from = cost + i * paths;
    float* to = cost + (i + 1) * paths;
    for (int64_t p = 0; p < paths; ++p) {
      float best = CostOf(params, i, p, from);
      for (int64_t state = p + paths; state < kStates; state += paths) {
        best = std::min(best, CostOf(params, i, state, from));
      }
      to[p] = best;
    }
  }
  const float* last = cost + params.n * paths;
  int64_t path = std::min_element(last, last + paths) - last;
  for (int64_t i = params.n - 1; i >= 0; --i) {
    int64_t state = path;
    while (CostOf(params, i, state, cost + i * paths) != cost[(i + 1) * paths + path]) state += paths;
    params.states[i] = static_cast<uint16_t>(state);
    path = state >> params.bits;
  }
}

}  // namespace spikefold::kernels::trellis_s8_f32
