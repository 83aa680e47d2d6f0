// spikefold scan MODEL -o DIR: where a model's outliers are.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apps/spikefold/context.h"
#include "calib/census.h"

namespace spikefold {

// What the calibration pass runs on; shared by scan and quantize.
struct ScanTextOptions {
  std::vector<std::string> texts;   // empty: the model writes its own text
  int64_t windows = 0, length = 0;  // 0: 64 of 512 tokens of a text; of its own text 32 of 128
  bool no_prefix = false;
  bool anatomy = false;  // of scan alone
};
struct ScanCommandOptions {
  std::string model, output;
  std::string backend = "cpu";
  ScanTextOptions text;
  bool force = false;
};
absl::Status RunScan(const ScanCommandOptions& options, Context& context);

// The scan of an opened model.
absl::StatusOr<ScanResult> ScanOpened(const OpenedModel& opened, const ScanTextOptions& options,
                                      Context& context);

}  // namespace spikefold
