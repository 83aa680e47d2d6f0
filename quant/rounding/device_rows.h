// GPTQ of a linear on a grid in a device's memory: RowPanel's steps, many rows at a time.
#pragma once

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"
#include "quant/rounding/gptq.h"

namespace spikefold {

// By factor.device. `out` has room for the codes, scales and zeros of the task; error, power [n]: dw H dw^T
// and w H w^T. ResourceExhausted: the device has no room.
absl::Status RoundOnDevice(const GptqTask& task, const HessianFactor& factor, const GptqOptions& options,
                           ThreadPool& pool, RoundedWeights& out, double* error, double* power);

}  // namespace spikefold
