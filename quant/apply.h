// Plan + checkpoint -> native quantized checkpoint, one tensor at a time.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "calib/stats.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "formats/quantized/native.h"
#include "kernels/runtime/model.h"
#include "quant/forecast.h"
#include "quant/plan.h"
#include "quant/rounding/site_rounding.h"

namespace spikefold {

// A checkpoint that ApplyPlan wrote, whose codes another plan can take. Both outlive the call.
struct EarlierCheckpoint {
  const Plan* plan = nullptr;  // that it was written from
  const NativeReader* native = nullptr;
};

// Which of several processes this is, each with a range of layers: the first has the embedding too, the last
// the head and all that belongs to no linear. count 0: not split.
struct Shard {
  int index = 0, count = 0;  // 1..count, at most as many as layers
};

struct ApplyOptions {
  ThreadPool* pool = nullptr;       // required
  Backend backend = Backend::kCpu;  // what runs the model for GPTQ
  const CalibStats* stats =
      nullptr;  // importance for clip search, K and V of the prefix; may be null if the plan needs neither
  std::string output;  // a directory that does not exist yet
  bool overwrite = false;
  std::string command;           // recorded as provenance
  Json folds;                    // FoldedCheckpoint::provenance(), or null
  std::string base_fingerprint;  // of the model on disk, where `reader` folds it; empty: `reader`'s
  // Weights that it rounded by GPTQ as this plan would (SharesRounding) are taken from there, to the same
  // bytes; a checkpoint that does not agree, or of another plan, is not used. Null plan: none.
  EarlierCheckpoint codes_from;
  // Keeps a journal, so that a run that is killed, interrupted or out of memory can be gone on with.
  bool journal = false;
  // Does so, to the same bytes as without the interruption (on a device: where it had as much room, see
  // Gptq).
  bool resume = false;
  std::string journal_key;         // what else decides the bytes, beside model, plan, scan and version
  int64_t* num_resumed = nullptr;  // gets the number of linears that were there already; may be null
  // Gets what GPTQ did on the host instead of on the device; may be null.
  HostRounding* host_rounding = nullptr;
  Shard shard;  // `output` becomes a part for MergeNativeParts()
  // Parts with all linears of the layers before the shard, of this plan: needed for GPTQ, which rounds on
  // what these hand over. They outlive the call.
  std::vector<const NativeReader*> earlier;
  Progress progress;
};
// What ApplyPlan() will take, from headers alone.
struct ApplyForecast {
  uint64_t file_bytes = 0;  // of the safetensors files, exactly
  MemoryForecast memory;
};
absl::StatusOr<ApplyForecast> ForecastApply(const Plan& plan, const CheckpointReader& reader,
                                            const ApplyOptions& options);
// Whether GPTQ gives the same codes for both plans, of one model and scan: the same folds and prefix, and the
// same linears rounded to the same grids with the same kept columns, super weights and spike rows. Each
// linear's codes depend on all that were rounded before it, so all must agree or none is shared; what is done
// to activations does not matter. False if nothing is rounded by GPTQ.
bool SharesRounding(const Plan& a, const Plan& b);
// AlreadyExists: output exists. InvalidArgument: the plan is for another model, or lacks a tensor.
// Nothing appears under `output` unless all was written.
absl::Status ApplyPlan(const Plan& plan, const CheckpointReader& reader, const ApplyOptions& options);

}  // namespace spikefold
