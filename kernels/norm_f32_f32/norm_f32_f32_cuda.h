// norm_f32_f32 on a GPU, with the adds around it: a norm of the residual stream is never alone.
//   residual += branch_gain ? norm(branch) * branch_gain : branch          (branch may be null)
//   y = norm(residual) * gain                                              (gain may be null: only the add)
// Method    a block a row; squares are added in float64, so 1/rms is the CPU's but for its last bit, rarely.
// Moves     4*k*(3 + branch) bytes a row; bound by memory.
// Targets   sm_80.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::norm_f32_f32 {

struct CudaParams {  // device addresses
  int64_t m = 0, k = 0;
  float* residual = nullptr;           // [m, k], in place
  const float* branch = nullptr;       // [m, k] or null
  const float* branch_gain = nullptr;  // [k] or null
  const float* gain = nullptr;         // [k] or null
  float eps = 0;
  float* y = nullptr;  // [m, k]; unless gain is null
};
// Values of a row that a thread keeps, where that is all it has, and as many threads as keep a row so, if no
// more than there may be.
inline constexpr int kHeldValues = 8;
inline constexpr unsigned kMostHoldingThreads = 1024;
constexpr unsigned HoldingThreads(int64_t k) {
  const uint64_t threads = std::bit_ceil(static_cast<uint64_t>((k + kHeldValues - 1) / kHeldValues));
  return static_cast<unsigned>(std::clamp<uint64_t>(threads, 128, kMostHoldingThreads));
}
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::norm_f32_f32
