// argmax_s32_f32 on a GPU, of several rows at once.
// Method    blocks take parts of a row; the bits of a value, made to grow with it, stand above the complement
//           of its index, so that the largest such number names the first of the largest values.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/argmax_s32_f32/argmax_s32_f32.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::argmax_s32_f32 {

// What the device leaves of a row.
struct Found {
  uint64_t top = 0;  // the number described above; 0: no value was finite
  uint32_t odd = 0;  // complement of the first index of a value that is not finite; 0: there is none
  uint32_t unused = 0;
};
inline Result ResultOf(const Found& found) {
  return {.top = static_cast<int32_t>(~static_cast<uint32_t>(found.top)),
          .odd = found.odd == 0 ? -1 : static_cast<int32_t>(~found.odd)};
}

struct CudaParams {  // device addresses
  int64_t m = 0, n = 0;
  const float* x = nullptr;  // [m, n]
  Found* found = nullptr;    // [m]
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::argmax_s32_f32
