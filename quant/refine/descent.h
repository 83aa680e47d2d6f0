// The way down that all learning here takes: one window of text a step and each window once, the float
// model's logits as the target, and of five points on the way, the start among them, the one that is best on
// windows that no gradient saw.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "formats/base/progress.h"
#include "formats/checkpoint.h"
#include "kernels/runtime/torch/torch_model.h"

namespace spikefold {

struct LearningOptions {
  std::vector<std::vector<int32_t>> windows;   // one step each, in this order
  std::vector<std::vector<int32_t>> held_out;  // decide which step is kept; no gradient sees them
  double rate = 1e-3;                          // of the largest step
  int num_threads = 1;
  std::string device = "cpu";
  Progress progress;
};

struct LearningPoint {
  int64_t step = 0;
  double learnt = 0;    // mean divergence of the windows since the last point, each before its step
  double held_out = 0;  // mean divergence of those held out
};
struct Learning {
  std::vector<LearningPoint> curve;  // the first is step 0
  int64_t best_step = 0;             // 0: nothing was better than what was there
  double before = 0, after = 0;      // held-out divergence, in nats a token
};

struct Descent {
  const char* what;                             // "refine", for error texts
  TorchModel* model = nullptr;                  // what learns; holds the best point's parameters afterwards
  const CheckpointReader* reference = nullptr;  // the float model
  std::vector<int32_t> prefix;                  // tokens that the reference sees before each window
  // One step along the gradients that were accumulated; false if they are not finite.
  absl::FunctionRef<absl::StatusOr<bool>(double rate)> step;
};
// InvalidArgument: no windows, or the model diverges infinitely. Internal: gradients that are not finite.
// Cancelled.
absl::StatusOr<Learning> Descend(const Descent& descent, const LearningOptions& options);

}  // namespace spikefold
