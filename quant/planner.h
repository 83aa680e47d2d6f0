// Recipe + graph + scan -> Plan.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/stats.h"
#include "formats/model_graph.h"
#include "quant/plan.h"
#include "quant/recipe.h"

namespace spikefold {

struct PlannerInput {
  const ModelGraph* graph = nullptr;
  const OutlierMap* map = nullptr;    // null: no scan was made
  const CalibStats* stats = nullptr;  // null: no scan was made
  std::string model_fingerprint, scan_sha256;
};
// InvalidArgument: unknown scheme, impossible group size, a pattern of recipe.keep that matches nothing, a
// scheme that needs statistics (static scales, kept columns, a prefix) without a scan.
// FailedPrecondition-free: a scan of another model is InvalidArgument, naming both fingerprints.
absl::StatusOr<Plan> MakePlan(const Recipe& recipe, const PlannerInput& input);

}  // namespace spikefold
