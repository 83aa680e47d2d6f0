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
  // Loads of several values are under way at once: the stores, which they might alias for all the compiler
  // knows, come behind them.
  constexpr int kBatch = 4;
  const auto batches = [&](auto load, auto use) {
    for (int64_t i0 = threadIdx.x; i0 < p.k; i0 += int64_t{kBatch} * blockDim.x) {
      float a[kBatch] = {}, b[kBatch] = {};
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int64_t i = i0 + int64_t{j} * blockDim.x;
        if (i < p.k) load(i, a[j], b[j]);
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int64_t i = i0 + int64_t{j} * blockDim.x;
        if (i < p.k) use(i, a[j], b[j]);
      }
    }
  };
  double squares = 0;
  batches(
      [&](int64_t i, float& h, float& b) {
        h = p.residual[at + i];
        if (p.branch != nullptr) b = p.branch[at + i];
      },
      [&](int64_t i, float h, float b) {
        if (p.branch != nullptr) {
          if (p.branch_gain != nullptr) b = b * branch_factor * p.branch_gain[i];
          h = h + b;
          p.residual[at + i] = h;
        }
        squares += Square(h);
      });
  if (p.gain == nullptr) return;
  const float factor = InverseRms(squares, p.k, p.eps);
  batches(  // each thread reads what it wrote itself
      [&](int64_t i, float& h, float& gain) {
        h = p.residual[at + i];
        gain = p.gain[i];
      },
      [&](int64_t i, float h, float gain) { y[i] = h * factor * gain; });
}

}  // namespace spikefold::kernels::norm_f32_f32
