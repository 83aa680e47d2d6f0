// What was decided for the tensors of one checkpoint: by role, and where a tensor differs from its role.
#pragma once

#include <string>
#include <vector>

#include "apps/report/eval_document.h"

namespace spikefold {

struct RoleSummary {
  std::string role, weight, act;  // as most of its tensors have it
  int64_t group = 0;
  int count = 0, exceptions = 0;
  int64_t kept_min = 0, kept_max = 0, supers = 0;
  double bits = 0;                           // mean, weighted by size
  double error_median = -1, error_max = -1;  // rounding errors; negative: not measured
  std::string worst;                         // module with error_max
};
std::vector<RoleSummary> SummarizeRoles(const std::vector<LinearDecision>& linears);

// Tensors that are stored or multiplied in another way than most of their role.
std::vector<const LinearDecision*> Exceptions(const std::vector<LinearDecision>& linears);

// The `count` largest measured rounding errors, descending.
std::vector<const LinearDecision*> WorstTensors(const std::vector<LinearDecision>& linears, size_t count);

// "INT4 in groups of 64", "INT8 per channel", "bf16"; "INT8 per token", "INT8 static", "float".
std::string WeightWords(const std::string& weight, int64_t group);
std::string ActivationWords(const std::string& act);

// "linears.11.down_in" without the layer: "down_in"; a name without a layer stays as it is.
std::string SiteKind(const std::string& site);

}  // namespace spikefold
