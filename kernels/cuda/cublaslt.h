// Matrix products of cuBLASLt, to compare with: it is loaded when it is asked for, and nothing needs it.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

enum class LtKind {
  kBf16,     // bf16 x bf16 -> bf16
  kS8,       // s8 x s8 -> s32
  kFp8,      // e4m3 x e4m3 -> bf16, one scale a tensor
  kFp8Rows,  // the same, a scale a row of either operand
};
struct LtBuffers {  // device: x [m, k], w [n, k], y [m, n] of the kind's types
  const void *x = nullptr, *w = nullptr;
  void* y = nullptr;
  const float *x_scale = nullptr, *w_scale = nullptr;  // kFp8Rows: [m], [n]
};

// One matrix product, the fastest of cuBLASLt's proposals on the buffers given.
class LtMatmul {
 public:
  virtual ~LtMatmul() = default;
  virtual absl::Status Run(const LtBuffers& buffers, const Stream& stream) = 0;
  // Unimplemented: no cuBLASLt on this machine, built without its header, or no proposal for the shape.
  static absl::StatusOr<std::unique_ptr<LtMatmul>> Make(LtKind kind, int64_t m, int64_t n, int64_t k,
                                                        const LtBuffers& buffers, const Stream& stream);
};

// Seconds of y [m, n] = x [m, k] * w [n, k]^T of random bf16 values, in recorded launches that take copies of
// w by turns, together more than twice the L2 cache. ResourceExhausted: there is no room for them.
absl::StatusOr<double> TimeLtBf16(int64_t m, int64_t n, int64_t k, const DeviceInfo& device,
                                  const Stream& stream);

}  // namespace spikefold::kernels::cuda
