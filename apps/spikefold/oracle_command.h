// spikefold eval MODEL --backend torch --parity: this program's logits beside LibTorch's.
#pragma once

#include "absl/status/status.h"
#include "apps/spikefold/eval_command.h"

namespace spikefold {

// InvalidArgument: options that have no meaning here. Unimplemented: no plugin. FailedPrecondition: a float
// model's logits differ by more than rounding explains.
absl::Status RunOracle(const EvalCommandOptions& options, Context& context);

}  // namespace spikefold
