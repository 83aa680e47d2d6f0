// Marlin (github.com/IST-DASLab/marlin) as a peer of the GPU benchmark, where the build was given it:
// -DSPIKEFOLD_MARLIN=LIBRARY (benchmarks/CMakeLists.txt says how that is made).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::benchmarks {

bool HasMarlin();
inline int64_t MarlinLocks(int64_t n) { return n / 128 * 16; }
// f16 x [m, k] and y [m, n], 4-bit codes in its own order, f16 scales of groups of 128, no zero points.
// `locks`: zeros at first, MarlinLocks(n) of them. Unimplemented: no Marlin, or no kernel of it for the
// shape.
absl::Status RunMarlin(const void* x, const void* codes, const void* scales, void* y, int64_t m, int64_t n,
                       int64_t k, int32_t* locks, const kernels::cuda::Stream& stream);

}  // namespace spikefold::benchmarks
