// What `export --to gguf` does to a float model before its bytes are written: rotations, a type for each
// tensor, rounding on a scan.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/export_command.h"
#include "formats/export/gguf_export.h"
#include "quant/folds/folds.h"

namespace spikefold {

struct GgufRounding {
  std::unique_ptr<CheckpointReader> base;
  std::unique_ptr<FoldedCheckpoint> folded;  // null: not rotated
  std::unique_ptr<ExportSource> source;
  std::map<std::string, GgmlType> types;      // of --like, by module
  std::map<std::string, std::string> blocks;  // rounded weights by module
};
// InvalidArgument: a quantized model with --scan, --rotate or --like; an online rotation; a file of --like
// that is of another model.
absl::StatusOr<GgufRounding> RoundForGguf(const ExportCommandOptions& options, std::optional<GgmlType> type,
                                          Context& context);

}  // namespace spikefold
