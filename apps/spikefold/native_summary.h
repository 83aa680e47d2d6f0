// A native quantized checkpoint in few words: what its linears are stored as, by role.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "apps/spikefold/console.h"
#include "formats/model_graph.h"
#include "formats/quantized/native.h"

namespace spikefold {

// Linears of one role that are stored alike but for the number of kept columns and super weights.
struct NativeGroup {
  std::string role, weight, activation;  // "down_proj", "INT8 per channel", "INT8 static"
  int64_t linears = 0, weights = 0, bytes = 0;
  int64_t kept_min = 0, kept_max = 0, supers = 0, row_split = 0;
  double bits() const {
    return weights == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(weights);
  }
};

struct NativeSummary {
  bool present = false;
  NativeInfo info;
  std::vector<int32_t> prefix_tokens;
  std::vector<NativeGroup> groups;  // execution order of the roles

  std::string Text(const Console& console) const;  // empty unless present
  Json ToJson() const;                             // null unless present
};
absl::StatusOr<NativeSummary> SummarizeNative(const std::string& path, const ModelGraph& graph);

}  // namespace spikefold
