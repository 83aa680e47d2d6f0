// CUTLASS (github.com/NVIDIA/cutlass) as a peer of the GPU benchmark, where the build was given it:
// -DSPIKEFOLD_CUTLASS=CLONE.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"

namespace spikefold::benchmarks {

// y[m,n] = bf16(x_scale[m] * (w_scale[n] * sum_k x[m,k] * w[n,k])), INT8 codes, K a multiple of 16, N of 8.
struct CutlassParams {
  int64_t m = 0, n = 0, k = 0;
  const int8_t *x = nullptr, *w = nullptr;
  const float *x_scale = nullptr, *w_scale = nullptr;
  uint16_t* y = nullptr;
};
// One way to tile it: wgmma, a persistent block a multiprocessor, scales in the epilogue.
struct CutlassGemm {
  const char* name;
  // `workspace` grows when it is too small: the first call is not to be recorded. Unimplemented: not for this
  // shape.
  absl::Status (*run)(const CutlassParams& params, kernels::cuda::DeviceMemory& workspace,
                      const kernels::cuda::Stream& stream);
};
absl::Span<const CutlassGemm> CutlassGemms();  // empty: not built in

}  // namespace spikefold::benchmarks
