// spikefold eval MODEL --backend cuda --parity --text FILE: whether the GPU computes what the CPU does.
#pragma once

#include "absl/status/status.h"
#include "apps/spikefold/eval_command.h"

namespace spikefold {

// FailedPrecondition if integer linears differ, once the comparison is printed.
absl::Status RunParity(const EvalCommandOptions& options, Context& context);

}  // namespace spikefold
