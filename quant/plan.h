// What will be done: exactly one decision a tensor, with its reason, its bytes and its bits. No patterns,
// nothing left to decide.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/json.h"
#include "formats/model_graph.h"
#include "formats/quantized/native.h"
#include "quant/recipe.h"

namespace spikefold {

struct PlannedSuper {
  int32_t row = 0, column = 0;
};

struct TensorDecision {
  std::string module;  // HF module path
  Role role = Role::kQProj;
  int layer = -1;
  int64_t n = 0, k = 0;
  bool has_bias = false;
  int weight_bits = 16;       // 2, 3, 4, 8, 16
  int group_size = 0;         // 0: per channel
  bool trellis = false;       // the codes are steps of a path; 2 to 6 bits, per channel
  bool weight_zeros = false;  // asymmetric
  // Group scales are whole multiples of one scale a channel, so that sums with INT8 rows stay integers.
  bool scale_multiples = false;
  ScaleMethod weight_scales = ScaleMethod::kAbsMax;
  Rounding rounding = Rounding::kNearest;  // never automatic
  int activation_bits = 16;                // 4, 8, 16
  int activation_group = 0;                // columns that share a scale; 0: all of a row
  bool activation_static = false, activation_zeros = false;
  float activation_scale = 0;  // static only
  int activation_zero = 0;     // static only: the code of 0
  std::vector<int32_t> kept;   // columns in bf16; the same list for all linears of a site
  std::vector<PlannedSuper> supers;
  float spike_threshold = 0;  // > 0: rows with a larger |x| are computed in float
  std::string reason;
  int64_t bytes = 0;  // all that is stored for it, side data included
  double bits() const {
    return n * k == 0 ? 0.0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(n * k);
  }
};
// How a decision is stored; decides its bytes. 16-bit weights are BF16 here, any other 16-bit type is as
// long.
QuantizedLinearSpec SpecOf(const TensorDecision& decision);

struct PlanTotals {
  int64_t linear_bytes = 0,
          linear_weights = 0;  // decoder linears with scales, kept columns, super weights, biases, shifts
  int64_t total_bytes = 0, total_weights = 0;  // and embedding, head, norms, prefix
  int64_t prefix_bytes = 0;
  double bits_linear() const;
  double bits_total() const;
  double activation_bits = 16;  // mean over the linears, weighted by multiply-adds
};

struct Plan {
  int format_version = 1;
  std::string tool_version, model_fingerprint,
      scan_sha256;  // scan_sha256: of the statistics the scales came from; empty if none
  Recipe recipe;
  int group_size = 0;
  std::vector<int32_t> prefix;  // tokens; empty: none
  bool prefix_changes_function = false;
  std::string outlier_reason;           // what was decided for the whole model, in words
  std::vector<TensorDecision> linears;  // every decoder linear once, execution order
  TensorDecision embedding;
  bool has_head = false;  // untied
  TensorDecision head;
  int64_t norm_bytes = 0, num_norm_weights = 0;
  PlanTotals totals;

  const TensorDecision* Find(absl::string_view module) const;
  // On the site's first linear whose input has a static scale (others may be kept); nullptr: none has.
  const TensorDecision* FindStatic(const ModelGraph& graph, const Site& site) const;
};
// Counts `bytes` of every decision and the totals from what will be stored.
void CountPlanBytes(const ModelGraph& graph, Plan& plan);
// One tensor a line.
std::string PlanToJson(const Plan& plan);
// DataLoss: not a plan, unknown keys, wrong types. Unimplemented: another format version.
absl::StatusOr<Plan> PlanFromJson(absl::string_view text, absl::string_view where);

}  // namespace spikefold
