// What ApplyPlan() will have in memory, from the plan and the headers alone: nothing is read or computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "formats/checkpoint.h"
#include "quant/plan.h"

namespace spikefold {

struct MemoryForecast {
  int64_t bytes = 0;       // at the worst moment, beside what the process has already
  std::string at;          // where that is
  int64_t text_bytes = 0;  // of `bytes`, what grows with the number of windows (GPTQ)
};

struct MemoryInput {
  const Plan* plan = nullptr;
  const CheckpointReader* reader = nullptr;
  absl::FunctionRef<bool(const TensorDecision&)> writes;  // those that this run rounds
  std::vector<int64_t> windows;                           // tokens of each window that GPTQ runs on
  int64_t prefix = 0;                                     // rows before each window
  int num_threads = 1;
};
MemoryForecast ForecastMemory(const MemoryInput& input);

}  // namespace spikefold
