// One linear of a plan as it will be stored. What is rounded to nearest, or stays a 16-bit float, takes the
// memory of its codes and of a few of its rows: the whole matrix is in memory only where the reader has no
// rows (another tool's codes, folds) or the codes are paths of a trellis.
#pragma once

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "formats/quantized/native.h"
#include "quant/plan.h"
#include "quant/rounding/round_weights.h"

namespace spikefold {

// The stored form of a decision, with the 16-bit float type that loses least of what the model's file holds.
QuantizedLinearSpec SpecFor(const TensorDecision& decision, const CheckpointReader& reader);

// Rounded to nearest. `importance` [k]: RoundToNearest.
absl::StatusOr<QuantizedLinear> RoundLinear(const TensorDecision& decision, const CheckpointReader& reader,
                                            absl::Span<const float> importance, ThreadPool& pool);
// From codes that are there already; `w` [n, k] are the unrounded weights.
absl::StatusOr<QuantizedLinear> FinishLinear(const TensorDecision& decision, const CheckpointReader& reader,
                                             absl::Span<const float> w, RoundedWeights rounded);

// Bytes that RoundLinear() and the writer behind it have in memory at once, at most.
int64_t RoundLinearMemory(const TensorDecision& decision, const CheckpointReader& reader, int num_threads);
// Of a linear as the writer is given it, and what the writer makes of its codes.
int64_t StoredMemory(const TensorDecision& decision);

}  // namespace spikefold
