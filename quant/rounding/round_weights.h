// Round-to-nearest weight codes with absmax or importance-weighted clipped scales.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "quant/plan.h"
#include "quant/rounding/weight_grid.h"

namespace spikefold {

struct RoundedWeights : GridWeights {
  // sum of h_k (w - q)^2 over sum of h_k w^2, both without kept columns and super weights in the first.
  double relative_error = 0;
};

// A weight matrix [n, k] and what of it the codes do not hold.
struct RoundingInput {
  absl::Span<const float> w;  // [n, k]
  int64_t n = 0, k = 0;
  absl::Span<const int32_t> kept;         // columns, ascending
  absl::Span<const PlannedSuper> supers;  // exact scalars
};
// `importance` [k] weighs the squared error of a column in the clip search (mean square of the calibrated
// input: the Hessian's diagonal); empty: all equal. Kept columns and super weights are left out of every
// scale. Deterministic, whatever the threads.
RoundedWeights RoundToNearest(const RoundingInput& input, const WeightGrid& grid,
                              absl::Span<const float> importance, ThreadPool& pool);

// The same for a matrix whose rows come a few at a time: what is in memory is the codes and those few.
// `input.w` is not looked at; kept columns, super weights and importance outlive the rounder. No trellis:
// paths are rounded as a whole.
class NearestRounder {
 public:
  NearestRounder(const RoundingInput& input, const WeightGrid& grid, absl::Span<const float> importance);
  void Add(absl::Span<const float> rows, ThreadPool& pool);  // [any, k], the next ones
  RoundedWeights Finish();                                   // once, after all n

 private:
  const RoundingInput input_;
  const WeightGrid grid_;
  const absl::Span<const float> importance_;
  int64_t begin_ = 0;
  double error_ = 0, power_ = 0;
  RoundedWeights out_;
};

// The grid of a decision: one float32 scale a row, or one bf16 scale a group.
WeightGrid GridOf(const TensorDecision& decision);
RoundedWeights RoundWeights(absl::Span<const float> w /* [n, k] */, const TensorDecision& decision,
                            absl::Span<const float> importance, ThreadPool& pool);

}  // namespace spikefold
