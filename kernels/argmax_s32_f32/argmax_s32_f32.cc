#include "kernels/argmax_s32_f32/argmax_s32_f32.h"

#include <algorithm>
#include <cmath>

namespace spikefold::kernels::argmax_s32_f32 {

// Blocks whose maxima and sums a compiler takes many at a time; then the one block that holds the answer.
Result Run(const float* x, int64_t n) {
  constexpr int64_t kBlock = 1024, kLanes = 16;
  Result result;
  float largest = x[0];
  int64_t block = 0;
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t count = std::min(kBlock, n - at);
    float most[kLanes], odd[kLanes] = {};  // x * 0 is 0 of what is finite, NaN of the rest
    std::fill_n(most, kLanes, x[at]);
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int64_t l = 0; l < kLanes; ++l) {
        const float v = x[at + i + l];
        most[l] = most[l] < v ? v : most[l];
        odd[l] += v * 0.0f;
      }
    }
    for (; i < count; ++i) {
      most[0] = most[0] < x[at + i] ? x[at + i] : most[0];
      odd[0] += x[at + i] * 0.0f;
    }
    float sum = 0, top = most[0];
    for (int64_t l = 0; l < kLanes; ++l) {
      sum += odd[l];
      top = std::max(top, most[l]);
    }
    if (sum != 0) {  // NaN
      while (std::isfinite(x[at])) ++at;
      result.odd = static_cast<int32_t>(at);
      return result;
    }
    if (at == 0 || top > largest) {
      largest = top;
      block = at;
    }
  }
  while (x[block] != largest) ++block;
  result.top = static_cast<int32_t>(block);
  return result;
}

}  // namespace spikefold::kernels::argmax_s32_f32
