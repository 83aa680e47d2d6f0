// argmax_s32_f32: the position of the largest x[n] of a row of logits, and whether all are finite.
//
// Requires  1 <= N < 2^31; no alignment beyond float.
// Moves     4*N bytes, twice where the row is not in a cache.
// Exact     of equal largest values (0 and -0 are equal) the first counts.
// Targets   plain C++; sm_80 (argmax_s32_f32_cuda.h).
#pragma once

#include <cstdint>

namespace spikefold::kernels::argmax_s32_f32 {

struct Result {
  int32_t top = 0;   // first index of the largest value, if all are finite
  int32_t odd = -1;  // first index of a value that is not finite, or -1
};
Result Run(const float* x /* [n] */, int64_t n);

}  // namespace spikefold::kernels::argmax_s32_f32
