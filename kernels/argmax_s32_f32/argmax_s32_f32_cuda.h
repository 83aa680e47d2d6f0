// argmax_s32_f32 on a GPU, of several rows at once.
// Method    blocks take parts of a row; the bits of a value, made to grow with it, stand above the complement
//           of its index, so that the largest such number names the first of the largest values. The host
//           puts the parts together.
// Targets   sm_80.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/argmax_s32_f32/argmax_s32_f32.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::argmax_s32_f32 {

// What the device leaves of a part of a row.
struct Found {
  uint64_t top = 0;  // the number described above; 0: no value was finite
  uint32_t odd = 0;  // complement of the first index of a value that is not finite; 0: there is none
  uint32_t unused = 0;
};
// Of a row of n values.
int64_t NumParts(int64_t n);
inline Result ResultOf(absl::Span<const Found> parts) {
  Found found;
  for (const Found& part : parts) {
    found.top = std::max(found.top, part.top);
    found.odd = std::max(found.odd, part.odd);
  }
  return {.top = static_cast<int32_t>(~static_cast<uint32_t>(found.top)),
          .odd = found.odd == 0 ? -1 : static_cast<int32_t>(~found.odd)};
}

struct CudaParams {  // device addresses
  int64_t m = 0, n = 0;
  const float* x = nullptr;  // [m, n]
  Found* found = nullptr;    // [m, NumParts(n)]
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::argmax_s32_f32
