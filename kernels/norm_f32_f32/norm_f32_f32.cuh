// A block of threads adds and normalizes one row: for this kernel and those that fuse it.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"

namespace spikefold::kernels::norm_f32_f32 {

// 1 / rms of `k` values of which this thread holds the sum of its squares.
__device__ inline float InverseRms(double squares, int64_t k, float eps) {
  const double mean = cuda::BlockReduce(squares, cuda::Sum()) / static_cast<double>(k);
  return static_cast<float>(1 / sqrt(mean + static_cast<double>(eps)));
}

__device__ inline double Square(float v) { return static_cast<double>(v) * static_cast<double>(v); }

// Row m: the adds into the residual, then the norm into y [k] (shared or global), if there is a gain.
__device__ inline void NormRow(const CudaParams& p, int64_t m, float* y) {
  const int64_t at = m * p.k;
  float branch_factor = 1;
  if (p.branch != nullptr && p.branch_gain != nullptr) {
    double squares = 0;
    for (int64_t i = threadIdx.x; i < p.k; i += blockDim.x) squares += Square(p.branch[at + i]);
    branch_factor = InverseRms(squares, p.k, p.eps);
  }
  double squares = 0;
  for (int64_t i = threadIdx.x; i < p.k; i += blockDim.x) {
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
  for (int64_t i = threadIdx.x; i < p.k; i += blockDim.x) {  // each thread reads what it wrote itself
    y[i] = p.residual[at + i] * factor * p.gain[i];
  }
}

}  // namespace spikefold::kernels::norm_f32_f32
