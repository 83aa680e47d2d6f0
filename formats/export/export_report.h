// What an export did to each tensor, and what the target format could not take.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/json.h"
#include "formats/base/progress.h"
#include "formats/export/export_source.h"

namespace spikefold {

struct ExportedTensor {
  std::string name;         // HF name of the weight
  std::string from, to;     // "s4g32", "Q4_0"
  bool same_codes = false;  // our codes, not rounded a second time
  std::string reason;       // where `to` is not what one expects; may be empty
  uint64_t bytes = 0;
  // Root of sum (exported - ours)^2 / sum ours^2, of the values read back from the written files.
  double error = 0;
};

struct ExportLoss {
  std::string what;    // "prefix", "activations", "kept columns" ...
  std::string detail;  // a sentence
  bool changes_function = false;
};

struct ExportReport {
  std::string format;  // "gguf"
  std::vector<ExportedTensor> tensors;
  std::vector<ExportLoss> losses;
  std::vector<std::string> notes;
  uint64_t file_bytes = 0;
};
Json ExportReportToJson(const ExportReport& report);

// Far above what rounding to 16 bit or float16 scales can cost: values beyond the type, or our own bug.
inline constexpr double kExportTolerance = 0.02;
// Root of the relative squared difference; infinite or NaN values count as infinitely wrong.
double RelativeError(absl::Span<const float> ours, absl::Span<const float> theirs);

// The written files, as any user of them reads them.
struct WrittenWeights {
  std::function<absl::StatusOr<std::unique_ptr<WeightRows>>(size_t weight)> rows;  // of a matrix
  std::function<absl::StatusOr<Tensor>(size_t weight)> vector;                     // of any other
  std::function<double(size_t weight)> limit;  // the largest error that is no fault
  std::string type;                            // for the text of one: "its values do not fit <type>"
};
// What the reader of such checkpoints finds; `limit` and `type` are the caller's.
WrittenWeights ReadWith(const CheckpointReader& reader, const ExportSource& source);
// Compares each weight of the source with what was written and sets the errors of `report`. Unimplemented: an
// error above its limit. Cancelled; what is read returns.
absl::Status CompareWithSource(const ExportSource& source, const WrittenWeights& written, ThreadPool& pool,
                               const Progress& progress, ExportReport& report);

// Losses that no format but the native one can take: the prefix, coded keys and values, rotated queries and
// keys, spike rows in float.
absl::StatusOr<std::vector<ExportLoss>> CommonLosses(const ExportSource& source, bool target_keeps_static);

}  // namespace spikefold
