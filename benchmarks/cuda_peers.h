// Operands of the GPU benchmarks, and the pass over cuBLASLt's integers (kernels/cuda/cublaslt.h) that
// per-token and per-channel scales ask for. A tool for developers: nothing here ships.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::benchmarks {

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

}  // namespace spikefold::benchmarks
