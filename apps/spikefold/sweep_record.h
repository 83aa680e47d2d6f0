// sweep.json: what a sweep has done so far, a point each, so that it can go on where it stopped.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "apps/spikefold/sweep_points.h"
#include "formats/base/json.h"

namespace spikefold {

struct SweepEntry {
  std::string name;
  std::string key;         // hash of the recipe and of all else that decides the result
  std::string status;      // "running", "done", "refused"
  std::string reason;      // refused: why
  std::string codes_from;  // the point whose weight codes it took; empty: rounded here
  double seconds = 0;
  Json recipe;
};

class SweepRecord {
 public:
  // From `directory`/sweep.json; empty where there is none. DataLoss: it is something else.
  static absl::StatusOr<SweepRecord> Load(const std::string& directory);
  const SweepEntry* Find(absl::string_view name) const;  // nullptr: never begun
  void Set(SweepEntry entry);                            // replaces the one of its name
  // `facts` (an object) says what was measured.
  Json ToJson(const Json& facts) const;
  absl::Status Save(const std::string& directory, const Json& facts) const;

 private:
  std::vector<SweepEntry> entries_;  // in the order in which they were begun
};

}  // namespace spikefold
