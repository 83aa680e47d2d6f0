// The reader that serves a model with its folds. Only files of this folder include it.
#pragma once

#include <memory>

#include "quant/folds/fold_builder.h"
#include "quant/folds/folds.h"

namespace spikefold {

// `owned` may be null; then `base` outlives the reader.
std::unique_ptr<FoldedCheckpoint> MakeFoldedCheckpoint(std::unique_ptr<CheckpointReader> owned,
                                                       const CheckpointReader& base, FoldedModel model,
                                                       ThreadPool* pool);

}  // namespace spikefold
