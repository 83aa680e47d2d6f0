// trellis_s8_f32: the path through a trellis (formats/quantized/trellis.h) that lies nearest to a column:
//   minimises sum_i (target_i - scale_i * levels[state_i])^2,   state_i = (state_(i-1) * 2^b + c_i) mod 4096,
// state_-1 = 0. A. Viterbi's dynamic program: of all paths that agree in their last 12 - b bits only the best
// goes on, so a row costs 4,096 levels whatever the bits.
//
// Requires  2 <= bits <= 6, 1 <= n <= 256, finite targets, scales > 0; no alignment beyond float.
// Moves     n * 2^(12-b) bytes of way back; levels and costs stay in the first-level cache.
// Exact     costs are float32 whose last 6 bits carry the step that led there, so paths within 2^-17 of the
//           best may be taken for it; every target takes the same one.
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
  std::vector<uint8_t> back;  // [n, 2^(12-b)]
  std::vector<float> cost;
};
// InvalidArgument: bits or n out of range, a missing buffer.
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params, Scratch& scratch);
absl::Status Run(const Params& params, Scratch& scratch);

}  // namespace spikefold::kernels::trellis_s8_f32
