// Which folds a model allows, from its graph alone.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/model_graph.h"

namespace spikefold {

struct FoldLegality {
  std::string fold;       // "R1", "smooth attn_in"
  std::string what;       // "the residual is rotated"
  std::string reason;     // why it is not legal; empty: it is
  std::string exception;  // where it is legal but for one part
  bool legal() const { return reason.empty(); }
};
absl::StatusOr<std::vector<FoldLegality>> FoldLegalities(const ModelGraph& graph);

}  // namespace spikefold
