// What `export --to gguf` does to a float model before its bytes are written: a type for each tensor,
// rounding on a scan.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/export_model.h"
#include "formats/export/gguf_export.h"

namespace spikefold {

struct GgufRounding {
  std::map<std::string, GgmlType> types;      // of --like, by module
  std::map<std::string, std::string> blocks;  // rounded weights by module
};
// Nothing for a quantized model. InvalidArgument: a file of --like that is of another model.
absl::StatusOr<GgufRounding> RoundForGguf(const ExportModel& model, const ExportCommandOptions& options,
                                          std::optional<GgmlType> type, Context& context);

}  // namespace spikefold
