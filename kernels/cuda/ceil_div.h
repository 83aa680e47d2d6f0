#pragma once

#include <cstdint>

#include "kernels/numeric.h"

namespace spikefold::kernels::cuda {

SF_HOST_DEVICE constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace spikefold::kernels::cuda
