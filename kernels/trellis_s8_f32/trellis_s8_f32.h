// trellis_s8_f32: the path through a trellis (formats/quantized/trellis.h) that lies nearest to a column:
//   minimises sum_i (target_i - scale_i * levels[state_i])^2,   state_i = (state_(i-1) * 2^b + c_i) mod 4096,
// state_-1 = 0. A. Viterbi's dynamic program: of all paths that agree in their last 12 - b bits only the best
// goes on, so a row costs 4,096 levels whatever the bits.
//
// Requires  2 <= bits <= 6, 1 <= n <= 256, finite targets, scales > 0; no alignment beyond float.
// Moves     4 * n * 2^(12-b) bytes of costs, which stay for the way back: it looks for the step that led to
//           each cost by computing the 2^b candidates once more; levels stay in the first-level cache.
// Exact     costs are float32, of equal ones the lowest state is taken; every target takes the same path.
// Targets   AVX-512, AVX2, plain C++.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"

namespace spikefold::kernels::trellis_s8_f32 {

inline constexpr int kStateBits = 12;
inline constexpr int kStates = 1 << kStateBits;
inline constexpr int64_t kMaxRows = 256;

struct Params {
  int bits = 4;
  int64_t n = 0;
  const float* levels = nullptr;  // [4096]
  const float* target = nullptr;  // [n]
  const float* scale = nullptr;   // [n]
  uint16_t* states = nullptr;     // [n]; the code is state mod 2^bits
};
// Grow-only working memory of one thread.
struct Scratch {
  std::vector<float> cost;  // [n + 1, 2^(12-b)]
};
// InvalidArgument: bits or n out of range, a missing buffer.
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params, Scratch& scratch);
absl::Status Run(const Params& params, Scratch& scratch);

}  // namespace spikefold::kernels::trellis_s8_f32
