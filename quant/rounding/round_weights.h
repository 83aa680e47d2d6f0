// Round-to-nearest weight codes with absmax or importance-weighted clipped scales.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "quant/plan.h"

namespace spikefold {

struct RoundedWeights {
  std::vector<int8_t> codes;  // [n, k]; 0 in kept columns and at super weights
  std::vector<float>
      scales;  // [n] float32 (8 bit), or [n, k/group] rounded to bf16 (4 bit): the values that are stored
  // sum of h_k (w - code * scale)^2 over sum of h_k w^2, both without kept columns and super weights in the
  // first.
  double relative_error = 0;
};
// 8 bit: codes in +-127, one scale a row. 4 bit: codes in [-8, 7], one bf16 scale a group.
// Kept columns and super weights are left out of every scale. `importance` [k] weighs the squared error of a
// column in the clip search (mean square of the calibrated input: the Hessian's diagonal); empty = all equal.
// Deterministic, whatever the threads. A row or group of zeros gets scale 1 (codes 0).
RoundedWeights RoundWeights(absl::Span<const float> w /* [n, k] */, const TensorDecision& decision,
                            absl::Span<const float> importance, ThreadPool& pool);

}  // namespace spikefold
