#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"

namespace spikefold::kernels::norm_f32_f32 {
namespace {

// A row of 576 to 8,192 values gives each thread 3 to 32.
constexpr int kThreads = 256;

// 1 / rms of `k` values of which this thread holds the sum of its squares.
__device__ float InverseRms(double squares, int64_t k, float eps) {
  const double mean = cuda::BlockReduce(squares, cuda::Sum()) / static_cast<double>(k);
  return static_cast<float>(1 / sqrt(mean + static_cast<double>(eps)));
}

__device__ double Square(float v) { return static_cast<double>(v) * static_cast<double>(v); }

__global__ void __launch_bounds__(kThreads) norm_f32_f32_sm80(CudaParams p) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * p.k;
  float branch_factor = 1;
  if (p.branch != nullptr && p.branch_gain != nullptr) {
    double squares = 0;
    for (int64_t i = threadIdx.x; i < p.k; i += kThreads) squares += Square(p.branch[at + i]);
    branch_factor = InverseRms(squares, p.k, p.eps);
  }
  double squares = 0;
  for (int64_t i = threadIdx.x; i < p.k; i += kThreads) {
    float h = p.residual[at + i];
    if (p.branch != nullptr) {
      float b = p.branch[at + i];
      if (p.branch_gain != nullptr) b = b * branch_factor * p.branch_gain[i];
      h = h + b;
      p.residual[at + i] = h;
    }
    squares += Square(h);
  }
  if (p.gain == nullptr) return;
  const float factor = InverseRms(squares, p.k, p.eps);
  for (int64_t i = threadIdx.x; i < p.k; i += kThreads) {  // each thread reads what it wrote itself
    p.y[at + i] = p.residual[at + i] * factor * p.gain[i];
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  return cuda::Launch("norm_f32_f32", norm_f32_f32_sm80,
                      {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kThreads)}, stream, p);
}

}  // namespace spikefold::kernels::norm_f32_f32
