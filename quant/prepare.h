// The way from a float model and its scan to a plan: fold, calibrate the folded model, plan.
//
//   SF_ASSIGN_OR_RETURN(Prepared p, Prepare(recipe, {.reader = reader, .map = &map, .stats = &stats, ...}));
//   SF_RETURN_IF_ERROR(ApplyPlan(p.plan, p.model(*reader), {..., .stats = p.stats_or(&stats), .folds =
//   p.folds()}));
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/stats.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "kernels/runtime/model.h"
#include "quant/folds/folds.h"
#include "quant/plan.h"
#include "quant/recipe.h"

namespace spikefold {

struct PrepareInput {
  const CheckpointReader* reader = nullptr;  // the float model; outlives Prepared
  const OutlierMap* map = nullptr;           // null: no scan was made
  const CalibStats* stats = nullptr;         // of `reader`; null: no scan was made
  std::string scan_sha256;
  std::shared_ptr<const LearnedRotations> rotations;  // those whose hash the recipe names; null: none
  ThreadPool* pool = nullptr;
  Backend backend = Backend::kCpu;  // what runs models
  TensorMemory* weights = nullptr;  // FoldedCheckpoint::set_memory(); outlives Prepared; null: none
  // What is measured here is kept and found again: statistics on all of the scan's windows as
  // folded-<hash>.spike, costs of rounding as costs-<hash>.json. Empty: nowhere.
  std::string cache_directory;
  std::string arithmetic;  // of the float kernels where their levels differ, as "fused": caches are of one
  // Bytes that the float32 weights of a model that must run may take; 0: any. Beyond: ResourceExhausted.
  uint64_t max_model_bytes = 0;
  Progress progress;
};

struct Prepared {
  std::unique_ptr<FoldedCheckpoint> folded;  // null: nothing is folded
  std::unique_ptr<CalibStats> folded_stats;  // of model(); null: the scan's own will do, or none was made
  Plan plan;
  const CheckpointReader& model(const CheckpointReader& base) const {
    return folded == nullptr ? base : *folded;
  }
  const CalibStats* stats_or(const CalibStats* scan) const {
    return folded_stats == nullptr ? scan : folded_stats.get();
  }
  Json folds() const { return folded == nullptr ? Json() : folded->provenance(); }
};

// Errors as MakePlan. A fold that is not legal for this model is left out; the plan's outlier_reason says
// why.
absl::StatusOr<Prepared> Prepare(const Recipe& recipe, const PrepareInput& input);
// For a plan from a file: the folds of its recipe, so that it can be applied. InvalidArgument: the plan is
// for another model.
absl::StatusOr<Prepared> PrepareFor(Plan plan, const PrepareInput& input);

}  // namespace spikefold
