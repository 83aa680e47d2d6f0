// Copies that would otherwise be launches of their own.
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

}  // namespace spikefold::kernels::cuda
