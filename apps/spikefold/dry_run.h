// Before the work: what it will write and take, and whether that is allowed.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "apps/spikefold/context.h"
#include "quant/apply.h"

namespace spikefold {

struct WorkForecast {
  uint64_t file_bytes = 0;   // of weights that are written, exactly
  uint64_t peak_memory = 0;  // of this process
  MemoryForecast work;       // the part of it that the writing takes
  int64_t num_windows = 0;   // of text that GPTQ runs on
};
absl::StatusOr<WorkForecast> Forecast(const Plan& plan, const CheckpointReader& model,
                                      const ApplyOptions& options);

// --max-memory (0: not given), and not more than this process can have.
uint64_t MemoryLimit(uint64_t max_memory);

// ResourceExhausted, with what would fit, if more is needed than --max-memory (0: not given) or than there
// is.
absl::Status CheckMemory(const WorkForecast& forecast, uint64_t max_memory);

std::string ForecastText(const WorkForecast& forecast, const CheckpointReader& model);
Json ForecastJson(const WorkForecast& forecast);

}  // namespace spikefold
