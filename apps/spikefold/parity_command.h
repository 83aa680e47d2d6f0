// spikefold eval MODEL --backend cuda --parity --text FILE: whether the GPU computes what the CPU does.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apps/spikefold/eval_command.h"
#include "calib/eval_windows.h"

namespace spikefold {

// Of any backend: InvalidArgument for options that have no meaning where a model is compared with itself.
absl::Status CheckParityOptions(const EvalCommandOptions& options);
// The windows of the options' text that both sides run.
absl::StatusOr<std::vector<EvalWindow>> ParityWindows(const EvalCommandOptions& options,
                                                      const OpenedModel& model);

// FailedPrecondition if integer linears differ, once the comparison is printed.
absl::Status RunParity(const EvalCommandOptions& options, Context& context);

}  // namespace spikefold
