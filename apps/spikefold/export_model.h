// The model that `export` writes: as it is, or a float one with the folds that were asked for.
#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/export_command.h"
#include "apps/spikefold/scan_files.h"
#include "formats/export/export_source.h"
#include "quant/folds/folds.h"

namespace spikefold {

struct ExportModel {
  std::unique_ptr<CheckpointReader> base;
  std::unique_ptr<FoldedCheckpoint> folded;  // null: nothing is folded
  std::unique_ptr<ExportSource> source;
  std::optional<LoadedScan> scan;  // of the base
  const CheckpointReader& model() const { return folded == nullptr ? *base : *folded; }
};
// InvalidArgument: a quantized model with --scan, --rotate, --rescale or --like; an online rotation; a scan
// of another model; --rescale auto without one. Unimplemented: a fold that is not legal here.
absl::StatusOr<ExportModel> OpenForExport(const ExportCommandOptions& options, Context& context);

}  // namespace spikefold
