// A model as a directory in GPTQ's layout (formats/quantized/foreign.h): linears whose codes it can hold, the
// rest in float16.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "formats/export/export_report.h"

namespace spikefold {

struct GptqExportOptions {
  bool v2 = false;  // zero points as they are; v1 stores them less 1
  bool overwrite = false;
  ThreadPool* pool = nullptr;  // null: this thread alone; the files are the same
  Progress progress;
};
// Writes `output` atomically, after it was read back through the reader of such checkpoints and compared.
// Unimplemented: no linear that fits, biases that the architecture has no place for, a zero point of 0 in v1
// (kernels disagree on what it wraps to), what CheckExportable refuses.
absl::StatusOr<ExportReport> ExportGptq(const ExportSource& source, const std::string& output,
                                        const GptqExportOptions& options);

}  // namespace spikefold
