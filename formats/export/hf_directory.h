// What every exported Hugging Face directory has beside its tensors: config.json and the tokenizer's files.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "formats/base/json.h"
#include "formats/export/export_report.h"
#include "formats/export/export_source.h"
#include "formats/safetensors_model.h"

namespace spikefold {

// The source's config.json for weights of `type` ("float16", "bfloat16"), without a quantization_config.
Json ConfigWithType(const ExportSource& source, const char* type);

// config.json and the source's side files into the directory `path`; a tokenizer.json that the source does
// not have becomes a loss of the report. Errors: those of WriteFileAtomically and SideFiles.
absl::Status WriteConfigAndSideFiles(const ExportSource& source, const Json& config, const std::string& path,
                                     ExportReport& report);

// The float weight of a node in `dtype`; a matrix by blocks of rows.
absl::Status WriteFloats(const ExportSource& source, const ExportWeight& weight, DType dtype,
                         ThreadPool& pool, SafetensorsModelWriter& tensors);

}  // namespace spikefold
