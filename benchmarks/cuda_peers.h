// What the GPU benchmark compares with: cuBLASLt, loaded when the program runs, and the pass over its
// integers that per-token and per-channel scales ask for. A tool for developers: nothing here ships.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/stream.h"

namespace spikefold::benchmarks {

enum class PeerKind {
  kBf16,     // bf16 x bf16 -> bf16
  kS8,       // s8 x s8 -> s32
  kFp8,      // e4m3 x e4m3 -> bf16, one scale a tensor
  kFp8Rows,  // the same, a scale a row of either operand
};
struct PeerBuffers {  // device: x [m, k], w [n, k], y [m, n] of the kind's types
  const void *x = nullptr, *w = nullptr;
  void* y = nullptr;
  const float *x_scale = nullptr, *w_scale = nullptr;  // kFp8Rows: [m], [n]
};

// One matrix product of cuBLASLt, the fastest of its proposals on the buffers given.
class Peer {
 public:
  virtual ~Peer() = default;
  virtual absl::Status Run(const PeerBuffers& buffers, const kernels::cuda::Stream& stream) = 0;
  // Unimplemented: no cuBLASLt on this machine, or no proposal for the shape.
  static absl::StatusOr<std::unique_ptr<Peer>> Make(PeerKind kind, int64_t m, int64_t n, int64_t k,
                                                    const PeerBuffers& buffers,
                                                    const kernels::cuda::Stream& stream);
};

// y = bf16(sums * x_scale[m] * w_scale[n]).
absl::Status Rescale(const int32_t* sums, const float* x_scale, const float* w_scale, int64_t m, int64_t n,
                     uint16_t* y, const kernels::cuda::Stream& stream);
// Random bytes, none 0x80 (no code is -128); random bf16 values of about 1; floats in [0.5, 1.5) * scale.
absl::Status FillBytes(void* to, int64_t count, uint64_t seed, const kernels::cuda::Stream& stream);
absl::Status FillBf16(uint16_t* to, int64_t count, uint64_t seed, const kernels::cuda::Stream& stream);
// e4m3 without its NaNs.
absl::Status FillFp8(void* to, int64_t count, uint64_t seed, const kernels::cuda::Stream& stream);
absl::Status FillFloats(float* to, int64_t count, float scale, uint64_t seed,
                        const kernels::cuda::Stream& stream);

// Launches recorded once and replayed: what a kernel costs without the host.
class Graph {
 public:
  ~Graph();
  absl::Status Begin(const kernels::cuda::Stream& stream);
  absl::Status End(const kernels::cuda::Stream& stream);
  absl::Status Run(const kernels::cuda::Stream& stream);

 private:
  void* exec_ = nullptr;  // cudaGraphExec_t
};

}  // namespace spikefold::benchmarks
