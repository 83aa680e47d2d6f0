// The two files of a scan directory: outliers.json, which people read and diff, and scan.spike, the
// statistics that scales are chosen from.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/stats.h"
#include "formats/model_graph.h"

namespace spikefold {

struct LoadedScan {
  OutlierMap map;
  CalibStats stats;
  std::string sha256;  // of scan.spike
};
// Whether a scan can be written to `directory`, asked before the work: CheckOutputDirectory(), and
// InvalidArgument if what would be replaced holds anything but a scan.
absl::Status CheckScanOutput(const std::string& directory, bool force,
                             const std::vector<std::string>& inputs);
// Writes a directory that appears whole or not at all. With `force` an existing scan is replaced.
absl::Status SaveScan(const ScanResult& scan, const ModelGraph& graph, const std::string& directory,
                      bool force);
// DataLoss: corrupt, or the two files are of different scans. InvalidArgument: CheckStats().
absl::StatusOr<LoadedScan> LoadScan(const std::string& directory, const ModelGraph& graph);

// The SHA-256 that scan.spike has or would have.
absl::StatusOr<std::string> HashStats(const CalibStats& stats);

}  // namespace spikefold
