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
#include "quant/scheme.h"
#include "quant/storage_budget.h"

namespace spikefold {

struct Treatments;
struct FoldWords {                   // what quant/prepare did before planning
  bool rotated = false;              // R1 is among `applied`
  std::string applied;               // "R1+R2+R4"; empty: nothing was folded
  std::vector<std::string> refused;  // "R1: why it is not legal here"
};

struct DynamicSite {
  int site = 0;
  std::string words;  // why
};

struct PlannerInput {
  const ModelGraph* graph = nullptr;
  const OutlierMap* map = nullptr;    // null: no scan was made
  const CalibStats* stats = nullptr;  // null: no scan was made
  std::string model_fingerprint, scan_sha256;
  FoldWords folds;
  const Treatments* treatments = nullptr;                   // chosen already; null: chosen here
  const std::vector<DynamicSite>* dynamic_sites = nullptr;  // null: none were chosen
  const std::vector<StorageUnit>* storage_costs = nullptr;  // null: all linears are stored alike
};
// InvalidArgument: unknown scheme, impossible group size, a pattern of recipe.keep that matches nothing, a
// scheme that needs statistics (static scales, kept columns, a prefix) without a scan.
// FailedPrecondition-free: a scan of another model is InvalidArgument, naming both fingerprints.
// A budget that the scheme's smallest storage exceeds, or its best does not reach, is InvalidArgument as
// well.
absl::StatusOr<Plan> MakePlan(const Recipe& recipe, const PlannerInput& input);

// The widths of a model's linears, the head's left out.
std::vector<int64_t> LinearWidths(const ModelGraph& graph);
// Whether weights become trellis codes: where it was asked for, and by itself where they are `rotated` by R1
// and so nearly Gaussian, or no group divides any of the `widths`.
bool UsesTrellis(const Recipe& recipe, const Scheme& scheme, const Treatments& treatments, bool rotated,
                 absl::Span<const int64_t> widths);
// Whether the weights have zero points.
bool WeightZeros(const Recipe& recipe, const Scheme& scheme);

}  // namespace spikefold
