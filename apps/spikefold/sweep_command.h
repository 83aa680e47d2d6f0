// spikefold sweep MODEL --scan DIR --text FILE -o DIR: many recipes over one scan, and their report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "apps/report/eval_document.h"
#include "apps/spikefold/context.h"

namespace spikefold {

struct SweepCommandOptions {
  std::string model, scan, output;
  std::vector<std::string> texts;
  std::string recipes = "grid";  // or a file
  std::string protocol = "llamacpp";
  int64_t context = 0;     // 0: the protocol's own
  int64_t windows = 20;    // 0: all
  int64_t max_points = 0;  // 0: all
  bool keep_models = false, force = false;
};
// Which are in the Pareto set: no other has at most the bits in its linears and at most the KL divergence,
// and less of one. None whose divergence is not finite.
std::vector<bool> ParetoSet(const std::vector<EvalDocument>& evals);
absl::Status RunSweep(const SweepCommandOptions& options, Context& context);

}  // namespace spikefold
