// Scales of ggml's blocks, chosen for weights whose errors do not cost the same.
#pragma once

#include "formats/ggml_scales.h"
#include "quant/rounding/weight_grid.h"

namespace spikefold {

// The grid of a type: its sub-blocks are the groups.
WeightGrid BlockGrid(const GgmlScaleLayout& layout);

// Scales of one block of weights w [layout.block], minimising sum_j h_j (w_j - q_j)^2 by search: ranges of
// both signs and least squares for each sub-block, then the integer scales around them together. `importance`
// [layout.block] is the Hessian's diagonal; null: all equal. No step is ever 0.
GgmlBlockScales ChooseBlockScales(const GgmlScaleLayout& layout, const float* w, const float* importance);

// Whole rows [n, k] to the nearest codes on such scales. k is a multiple of the block; the result is the
// file's bytes and does not depend on the threads.
std::string EncodeBlocks(const GgmlScaleLayout& layout, absl::Span<const float> w, int64_t k,
                         absl::Span<const float> importance /* [k] or empty */, ThreadPool& pool);

}  // namespace spikefold
