// Small passes over memory that no larger kernel has taken over.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

struct Copy {
  float* to = nullptr;
  const float* from = nullptr;
};
// Both of `count` floats, device to device.
absl::Status CopyTwo(const Copy& first, const Copy& second, int64_t count, const Stream& stream);
// rows [m, k] -= by [k], in place.
absl::Status SubtractFromRows(const float* by, int64_t m, int64_t k, float* rows, const Stream& stream);

}  // namespace spikefold::kernels::cuda
