#include "benchmarks/marlin_peer.h"

namespace spikefold::benchmarks {

bool HasMarlin() { return false; }

absl::Status RunMarlin(const void*, const void*, const void*, void*, int64_t, int64_t, int64_t, int32_t*,
                       const kernels::cuda::Stream&) {
  return absl::UnimplementedError("marlin: not built in");
}

}  // namespace spikefold::benchmarks
