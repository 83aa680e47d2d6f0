// Plan + checkpoint -> native quantized checkpoint, one tensor at a time.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "calib/stats.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "quant/plan.h"

namespace spikefold {

struct ApplyOptions {
  ThreadPool* pool = nullptr;  // required
  const CalibStats* stats =
      nullptr;  // importance for clip search, K and V of the prefix; may be null if the plan needs neither
  std::string output;  // a directory that does not exist yet
  bool overwrite = false;
  std::string command;           // recorded as provenance
  Json folds;                    // FoldedCheckpoint::provenance(), or null
  std::string base_fingerprint;  // of the model on disk, where `reader` folds it; empty: `reader`'s
  Progress progress;
};
// AlreadyExists: output exists. InvalidArgument: the plan is for another model, or lacks a tensor.
// Nothing appears under `output` unless all was written.
absl::Status ApplyPlan(const Plan& plan, const CheckpointReader& reader, const ApplyOptions& options);

}  // namespace spikefold
