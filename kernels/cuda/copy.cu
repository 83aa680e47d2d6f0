#include "kernels/cuda/block.cuh"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    copy_two_sm80(Copy first, Copy second, int64_t count, bool aligned) {
  float* const to = blockIdx.y == 0 ? first.to : second.to;
  const float* const from = blockIdx.y == 0 ? first.from : second.from;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (aligned) {
    if (i < count) *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(from + i);
    return;
  }
  for (int64_t j = i; j < i + 4 && j < count; ++j) to[j] = from[j];
}

__global__ void __launch_bounds__(kThreads) subtract_from_rows_sm80(const float* by, int64_t k, float* rows) {
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (i < k) rows[blockIdx.x * k + i] -= by[i];
}

}  // namespace

absl::Status CopyTwo(const Copy& first, const Copy& second, int64_t count, const Stream& stream) {
  if (count == 0) return absl::OkStatus();
  const auto whole = [&](const Copy& c) {
    return (reinterpret_cast<uintptr_t>(c.to) | reinterpret_cast<uintptr_t>(c.from)) % sizeof(float4) == 0;
  };
  const bool aligned = count % 4 == 0 && whole(first) && whole(second);
  return Launch(
      "copy", copy_two_sm80,
      {.grid = dim3(static_cast<unsigned>(CeilDiv(count, kThreads * 4)), 2), .block = dim3(kThreads)}, stream,
      first, second, count, aligned);
}

absl::Status SubtractFromRows(const float* by, int64_t m, int64_t k, float* rows, const Stream& stream) {
  if (m == 0 || k == 0) return absl::OkStatus();
  const dim3 grid(static_cast<unsigned>(m), static_cast<unsigned>(CeilDiv(k, kThreads)));
  return Launch("subtract_from_rows", subtract_from_rows_sm80, {.grid = grid, .block = dim3(kThreads)},
                stream, by, k, rows);
}

}  // namespace spikefold::kernels::cuda
