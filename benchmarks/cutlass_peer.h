// CUTLASS (github.com/NVIDIA/cutlass) as a peer of the GPU benchmark, where the build was given it:
// -DSPIKEFOLD_CUTLASS=CLONE.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "formats/base/dtype.h"
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

// Of bf16 outputs, as a part of ours, or of 1e-3 if that is less; 1 where theirs are not finite.
inline double WorstDifference(absl::Span<const uint16_t> ours, absl::Span<const uint16_t> theirs) {
  double worst = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double a = Bf16ToFloat(ours[i]), b = Bf16ToFloat(theirs[i]);
    worst = std::max(worst, std::isfinite(b) ? std::abs(a - b) / std::max(std::abs(a), 1e-3) : 1.0);
  }
  return worst;
}

}  // namespace spikefold::benchmarks
