// spikefold eval MODEL --backend cuda --parity --text FILE: whether the GPU computes what the CPU does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
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

// Part of every evaluation on a GPU: the beginning of its first window, cut by `tokenizer` as the evaluation
// was, run on the CPU as well. Nothing, with a warning, where the CPU cannot run the model (no memory for it,
// no kernel); any other error as it is.
absl::StatusOr<std::optional<EvalDocument::Parity>> CompareBeginning(const EvalCommandOptions& options,
                                                                     const OpenedModel& device,
                                                                     const Tokenizer& tokenizer,
                                                                     const TokenStream& text, EvalOptions how,
                                                                     Context& context);
// FailedPrecondition if integer linears differ.
absl::Status CheckParity(const EvalCommandOptions& options, int64_t different, const std::string& device);

// FailedPrecondition if integer linears differ, once the comparison is printed.
absl::Status RunParity(const EvalCommandOptions& options, Context& context);

}  // namespace spikefold
