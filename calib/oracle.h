// Whether this program's forward pass is right, said by another library: LibTorch walks the same ModelGraph
// with its own arithmetic (kernels/runtime/torch), and both give logits of the same windows.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/eval_windows.h"
#include "formats/base/progress.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/torch/torch_model.h"

namespace spikefold {

struct OracleResult {
  int64_t num_windows = 0, num_tokens = 0, num_scored = 0;
  double logits_worst = 0;  // largest |difference|; infinite for NaN
  double logits_range = 0;  // largest |logit| of the oracle
  double kld_mean = 0, kld_max = 0, same_top = 1;
  double seconds_oracle = 0, seconds = 0;
};
// Runs `windows` behind the models' prefix; both were loaded from one checkpoint.
absl::StatusOr<OracleResult> CompareWithOracle(const RuntimeModel& model, TorchModel& oracle,
                                               const std::vector<EvalWindow>& windows,
                                               const Progress& progress);

}  // namespace spikefold
