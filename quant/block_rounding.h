// A float model's weights as blocks of ggml, rounded by GPTQ: for files that other engines read.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "calib/stats.h"
#include "formats/base/progress.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "formats/gguf_blocks.h"

namespace spikefold {

struct BlockRoundingOptions {
  ThreadPool* pool = nullptr;  // required
  // Whose text is calibrated on, its spikes counting little (RowWeighting); null: each weight to the nearest
  // code, errors of all columns being equal.
  const CalibStats* stats = nullptr;
  Progress progress;
};
// Module path -> the bytes of its weight, rows in HF order, for every module that `types` gives a type of
// ggml_scales.h; others are left out. Linears are rounded one after the other, each on what the ones before
// hand over. Embeddings, and heads tied to them, go to the nearest codes, the scales of a tied one weighted
// with the head's input. InvalidArgument: rows that are no whole blocks, a scan without windows.
absl::StatusOr<std::map<std::string, std::string>> RoundToBlocks(const CheckpointReader& reader,
                                                                 const std::map<std::string, GgmlType>& types,
                                                                 const BlockRoundingOptions& options);

}  // namespace spikefold
