// A model as a directory that transformers and vLLM load: config.json, safetensors, tokenizer files.
//
//   compressed-tensors   quantized linears keep their codes: "int-quantized" (INT8 weights and activations)
//   or
//                        "pack-quantized" (all others); what it cannot hold becomes 16 bit and is ignored
//   safetensors          the values of quantized weights in 16 bit, for every engine
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "formats/export/export_report.h"

namespace spikefold {

struct DirectoryExportOptions {
  bool compressed_tensors = false;
  bool overwrite = false;
  ThreadPool* pool = nullptr;  // null: this thread alone; the files are the same
  Progress progress;
};

// How a weight is stored in such a directory, decided from headers alone.
struct DirectoryDecision {
  bool codes = false;        // else `dtype` values
  QuantizedLinearSpec spec;  // with codes: of at least 4 bits, without extras and bias
  bool packed = false;       // "pack-quantized"; else "int-quantized"
  DType dtype = DType::kBF16;
  std::string reason;
};
DirectoryDecision DecideDirectory(const ExportWeight& weight, bool compressed_tensors, DType dtype);

// The "quantization_config" of compressed-tensors: one config group for each scheme there is. null without
// codes.
Json CompressedTensorsConfig(const std::vector<ExportWeight>& weights,
                             const std::vector<DirectoryDecision>& decisions);

// Writes `output` as a whole or not at all, after it was read back and compared. Unimplemented: online
// rotations, biases that the architecture has no place for.
absl::StatusOr<ExportReport> ExportDirectory(const ExportSource& source, const std::string& output,
                                             const DirectoryExportOptions& options);

}  // namespace spikefold
