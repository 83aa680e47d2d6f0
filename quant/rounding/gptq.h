// GPTQ (2210.17323): weights are rounded column by column, and each column takes up the error that the ones
// before it left in the output.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "quant/rounding/hessian_factor.h"
#include "quant/rounding/round_weights.h"

namespace spikefold {

// Of grids. Trellis codes take GPTQ alone: choosing every column's path again with fitted scales lowered the
// calibrated loss and raised the divergence on other text (docs/results.md).
struct GptqOptions {
  // After GPTQ each code moves to where the loss is least with all others as they are, in passes over the row
  // until nothing moves (GPTQ is a greedy walk; its end is no minimum). 0: GPTQ alone.
  int descent_passes = 20;
  // Then scales are fitted to the codes by least squares in the Hessian's norm and the codes to the scales,
  // so many times, as long as a row's loss falls.
  int scale_refits = 1;
};
// Whether a device's Hessian (HessianFactor::device) does for this grid.
bool CanRoundOnDevice(const WeightGrid& grid);
// `factor` was made with the same kept columns. Scales and zeros are first those of the unrounded groups
// (ChooseScale with the Hessian's diagonal), so that they need no index table whatever the order of rounding.
// relative_error is tr(dW H dW^T) / tr(W H W^T), dW being zero in kept columns and at super weights.
// Rows are independent: the result does not depend on the threads. With factor.device they are rounded there,
// to the same codes and scales but where the factor's last bits, another order of float64 additions, turn
// one. InvalidArgument: a grid or sizes that do not fit; a device's errors.
absl::StatusOr<RoundedWeights> Gptq(const RoundingInput& input, const HessianFactor& factor,
                                    const WeightGrid& grid, const GptqOptions& options, ThreadPool& pool);

struct GptqTask {
  RoundingInput input;
  WeightGrid grid;
};
// Several linears of a site, each rounded as it would be alone: their panels share one loop, so that linears
// of one or two panels leave no thread idle. A result a task, in their order.
std::vector<absl::StatusOr<RoundedWeights>> Gptq(absl::Span<const GptqTask> tasks,
                                                 const HessianFactor& factor, const GptqOptions& options,
                                                 ThreadPool& pool);

}  // namespace spikefold
