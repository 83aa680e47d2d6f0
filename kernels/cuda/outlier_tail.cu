#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/outlier_tail_cuda.h"

namespace spikefold::kernels::cuda {
namespace {

constexpr int kThreads = 128;

// One thread a row: two super weights of one output are added in order.
__global__ void __launch_bounds__(kThreads) super_weights_sm80(SuperParams p) {
  const int64_t m = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (m >= p.m) return;
  for (int64_t s = 0; s < p.num_super; ++s) {
    p.y[m * p.n + p.row[s]] += p.value[s] * p.x[m * p.x_stride + p.slot[s]];
  }
}

}  // namespace

absl::Status AddSuperWeights(const SuperParams& p, const Stream& stream) {
  if (p.m == 0 || p.num_super == 0) return absl::OkStatus();
  return Launch("super weights", super_weights_sm80,
                {.grid = dim3(static_cast<unsigned>(CeilDiv(p.m, kThreads))), .block = dim3(kThreads)},
                stream, p);
}

}  // namespace spikefold::kernels::cuda
