// Recipe + graph + scan -> Plan.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/stats.h"
#include "formats/model_graph.h"
#include "quant/plan.h"
#include "quant/recipe.h"

namespace spikefold {

struct Treatments;
struct FoldWords {                   // what quant/prepare did before planning
  std::string applied;               // "R1+R2+R4"; empty: nothing was folded
  std::vector<std::string> refused;  // "R1: why it is not legal here"
};

struct PlannerInput {
  const ModelGraph* graph = nullptr;
  const OutlierMap* map = nullptr;    // null: no scan was made
  const CalibStats* stats = nullptr;  // null: no scan was made
  std::string model_fingerprint, scan_sha256;
  FoldWords folds;
  const Treatments* treatments = nullptr;  // chosen already; null: chosen here
};
// InvalidArgument: unknown scheme, impossible group size, a pattern of recipe.keep that matches nothing, a
// scheme that needs statistics (static scales, kept columns, a prefix) without a scan.
// FailedPrecondition-free: a scan of another model is InvalidArgument, naming both fingerprints.
absl::StatusOr<Plan> MakePlan(const Recipe& recipe, const PlannerInput& input);

}  // namespace spikefold
