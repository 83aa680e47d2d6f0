// A model as one GGUF file for llama.cpp and its relatives. Codes that a block type of ggml can hold are
// taken over as they are; what it cannot hold goes into a wider type, or is refused, and the report says
// which and why.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "formats/export/export_report.h"
#include "formats/gguf_blocks.h"

namespace spikefold {

struct GgufExportOptions {
  // What float linears become; by default what they are (block types of a GGUF source: F16). Embedding and
  // head take Q8_0 where this has fewer bits.
  std::optional<GgmlType> type;
  std::map<std::string, GgmlType> types;  // by module, before `type`
  // Weights that were rounded before, by module: the bytes of the decided type, rows in HF order.
  const std::map<std::string, std::string>* blocks = nullptr;
  std::string name;            // general.name; the source's file name if empty
  ThreadPool* pool = nullptr;  // null: this thread alone; the file is the same
  Progress progress;
};

// The stored type for a weight, decided from headers alone.
struct GgufDecision {
  GgmlType type = GgmlType::kF32;
  bool codes = false;  // from our codes; blocks with kept columns or super weights are rounded again
  std::string reason;
};
GgufDecision DecideGguf(const ExportWeight& weight, const GgufExportOptions& options);

// Writes `output` atomically, after it was read back and compared tensor by tensor. Unimplemented: online
// rotations, biases that the architecture has no place for, a tokenizer that GGUF cannot describe.
absl::StatusOr<ExportReport> ExportGguf(const ExportSource& source, const std::string& output,
                                        const GgufExportOptions& options);

}  // namespace spikefold
