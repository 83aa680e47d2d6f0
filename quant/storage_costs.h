// What it costs to round parts of a model: the whole model is rounded once with 4 bits, as it would be for
// real, then each part alone takes its rounded weights, and the model's divergence from itself is measured on
// text of the scan that rounding did not see.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/stats.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "kernels/runtime/model.h"
#include "quant/storage_budget.h"

namespace spikefold {

struct StorageCostInput {
  const CheckpointReader* reader = nullptr;  // the (folded) float model
  const CalibStats* stats = nullptr;         // its windows, and the prefix
  bool behind_prefix = false;
  bool zeros = true;        // grids with zero points
  bool trellis = false;     // trellis codes instead of grids
  bool gptq = true;         // rounded by GPTQ, else to the nearest
  int64_t max_windows = 6;  // measured on; at most half of the scan's
  std::string cache;        // a file that holds the losses, or will hold them; empty: none
  ThreadPool* pool = nullptr;
  Backend backend = Backend::kCpu;  // what runs the model
  Progress progress;
};
// Units with their losses and, as options, every grid that fits their widths: 2, 3 and 4 bits in groups of
// 16 to 256, or trellis codes of 2 to 6 bits, and 8 bits a channel. The loss of a unit is that of its role
// (all layers) times the share of its layers (all roles): some twenty evaluations instead of two hundred; all
// are scaled so that they add up to the loss of the model that is rounded whole. Held in memory: one copy of
// the model, and its codes.
absl::StatusOr<std::vector<StorageUnit>> MeasureStorageCosts(const StorageCostInput& input);

}  // namespace spikefold
