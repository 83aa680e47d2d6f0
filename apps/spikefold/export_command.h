// spikefold export MODEL --to FORMAT -o PATH: a model for other engines, with a report of what was lost.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct ExportCommandOptions {
  std::string model, format, output, type;
  // GGUF of float models: rounding on a scan, rotations, types of another file.
  std::string scan, rotate, like;
  std::string rescale, qk_smooth;  // of float models, in every format
  bool force = false;
};
std::vector<std::string> ExportFormats();  // "gguf", ...
std::vector<std::string> ExportTypes();    // "q8_0", ...
absl::Status RunExport(const ExportCommandOptions& options, Context& context);

}  // namespace spikefold
