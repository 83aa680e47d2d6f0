#include "kernels/cuda/launch.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32.cuh"

namespace spikefold::kernels::norm_f32_f32 {
namespace {

// A row of 576 to 8,192 values gives each thread 3 to 32; few rows leave multiprocessors idle, and get more.
constexpr int kThreads = 256, kManyThreads = 1024;
constexpr int64_t kFewRows = 64;

__global__ void __launch_bounds__(kManyThreads) norm_f32_f32_sm80(const __grid_constant__ CudaParams p) {
  cuda::LetNextStart();
  PrefetchGain(p);
  cuda::WaitForInputs();
  NormRow(p, blockIdx.x, p.y + blockIdx.x * p.k, false);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  return cuda::Launch("norm_f32_f32", norm_f32_f32_sm80,
                      {.grid = dim3(static_cast<unsigned>(p.m)),
                       .block = dim3(p.m <= kFewRows ? kManyThreads : kThreads),
                       .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::norm_f32_f32
