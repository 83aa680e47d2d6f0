// Whether two backends compute the same: a device's model against the host's, both of one checkpoint.
//
// Every site of every layer gets the host's float rows on both sides; each side makes its own codes from them
// and multiplies them with its own weights. Integer linears must agree bit for bit (sums are exact, and what
// follows is one order of roundings); float linears and whole runs differ by their order of addition, which
// is reported.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "calib/eval_windows.h"
#include "formats/base/progress.h"
#include "kernels/runtime/model.h"

namespace spikefold {

struct LinearParity {
  int64_t num_outputs = 0;    // compared
  int64_t num_rounded = 0;    // not the same bits, but within the rounding of kept columns in another order
  int64_t num_different = 0;  // beyond that
  double worst =
      0;  // largest |difference| over the root mean square of its linear's outputs; infinite for NaN
  std::string worst_linear;  // "model.layers.3.mlp.down_proj"; empty if nothing differs
};
struct ParityResult {
  int64_t num_windows = 0, num_tokens = 0;
  LinearParity integer, floating;
  // Whole runs, each on its own activations.
  double logits_worst = 0;  // largest |difference|; infinite for NaN
  double kld_mean = 0, kld_max = 0, same_top = 1;
  double seconds_device = 0, seconds_host = 0;
  bool integers_equal() const { return integer.num_different == 0; }
};
// The first tokens of a window, 2 at least where there are as many, the last of them scored.
EvalWindow BeginningOf(EvalWindow window, int64_t tokens);
// Runs `windows` behind the models' prefix. InvalidArgument: models of different shape.
absl::StatusOr<ParityResult> CompareBackends(const RuntimeModel& device, const RuntimeModel& host,
                                             const std::vector<EvalWindow>& windows,
                                             const Progress& progress);

}  // namespace spikefold
