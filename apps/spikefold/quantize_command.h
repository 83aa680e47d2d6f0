// spikefold quantize MODEL --scheme S -o DIR: the whole job. Scan and plan are made where they are not given.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/recipe_options.h"
#include "apps/spikefold/scan_command.h"
#include "quant/apply.h"

namespace spikefold {

struct QuantizeCommandOptions {
  std::string model, output;
  std::string scan, plan;   // a scan directory, a plan file; empty: made here
  std::string rotate_from;  // what learn-rotations wrote; with a plan: what it was made with
  std::string backend = "cpu";
  RecipeOptions recipe;
  ScanTextOptions text;  // of a scan made here
  bool resume = false;
  bool force = false;
  bool dry_run = false;
  std::string max_memory;          // "6GiB"; empty: what the machine has
  std::string shard;               // "2/4"; empty: everything
  std::vector<std::string> after;  // parts of the shards before it
};
// Writes the checkpoint that a plan stands for. `scan` may be null if the plan needs none.
struct PreparedOutput {
  std::string path;
  bool overwrite = false;
  EarlierCheckpoint codes_from;
  bool journal = false, resume = false;  // as in ApplyOptions
  Shard shard;
  std::vector<const NativeReader*> earlier;
};
ApplyOptions MakeApplyOptions(const Prepared& prepared, const LoadedScan* scan, const PreparedOutput& output,
                              Context& context);
absl::Status WritePrepared(const Prepared& prepared, const CheckpointReader& reader, const LoadedScan* scan,
                           const PreparedOutput& output, Context& context);
absl::Status RunQuantize(const QuantizeCommandOptions& options, Context& context);

}  // namespace spikefold
