#include "formats/base/status.h"
#include "kernels/cholesky_f64/cholesky_f64_cuda.h"
#include "kernels/cuda/ceil_div.h"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::cholesky_f64 {
namespace {

constexpr int kBlock = 64;                        // columns of L that are made before the rest is updated
constexpr int kTile = 64, kPart = 4, kStep = 16;  // outputs of a block of threads and of one; columns at once
constexpr int kSide = kTile / kPart, kThreads = kSide * kSide;
constexpr int kRow = kTile + 2;
constexpr int kRowThreads = 64;

// Columns [at, at + width) of the rows that begin at `at`.
__global__ void __launch_bounds__(kThreads) FactorDiagonal(CudaParams p, int64_t at, int width) {
  __shared__ double l[kBlock][kBlock + 1];
  double* const a = p.a + at * p.stride + at;
  for (int i = static_cast<int>(threadIdx.x); i < kBlock * kBlock; i += kThreads) {
    const int row = i / kBlock, column = i % kBlock;
    if (row < width && column <= row) l[row][column] = a[row * p.stride + column];
  }
  for (int j = 0; j < width; ++j) {
    __syncthreads();
    const double square = l[j][j];
    const bool positive = square > 0 && square <= 1.7e308;  // NaN is neither
    if (!positive && threadIdx.x == 0) *p.failed = 1;
    const double root = sqrt(positive ? square : 1.0);
    __syncthreads();
    for (int i = j + static_cast<int>(threadIdx.x); i < width; i += kThreads) {
      l[i][j] = i == j ? root : l[i][j] / root;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kBlock * kBlock; i += kThreads) {
      const int row = i / kBlock, column = i % kBlock;
      if (row < width && column > j && column <= row) {
        l[row][column] = fma(-l[row][j], l[column][j], l[row][column]);
      }
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kBlock * kBlock; i += kThreads) {
    const int row = i / kBlock, column = i % kBlock;
    if (row < width && column <= row) a[row * p.stride + column] = l[row][column];
  }
}

// The same columns of the rows below: x L^T = a for each row. All kBlock of them are there.
__global__ void __launch_bounds__(kRowThreads) SolveRows(CudaParams p, int64_t at) {
  __shared__ double l[kBlock][kBlock], inverse[kBlock];
  const double* const diagonal = p.a + at * p.stride + at;
  for (int i = static_cast<int>(threadIdx.x); i < kBlock * kBlock; i += kRowThreads) {
    const int row = i / kBlock, column = i % kBlock;
    // [column][row]: what a column of L does to those after it lies together.
    l[column][row] = column <= row ? diagonal[row * p.stride + column] : 0;
  }
  __syncthreads();
  if (threadIdx.x < kBlock) inverse[threadIdx.x] = 1 / l[threadIdx.x][threadIdx.x];
  __syncthreads();
  const int64_t row = at + kBlock + static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  if (row >= p.n) return;
  double* const a = p.a + row * p.stride + at;
  double x[kBlock];
#pragma unroll
  for (int c = 0; c < kBlock; ++c) x[c] = a[c];
#pragma unroll
  for (int c = 0; c < kBlock; ++c) {
    x[c] *= inverse[c];
#pragma unroll
    for (int i = c + 1; i < kBlock; ++i) x[i] = fma(-x[c], l[c][i], x[i]);
    a[c] = x[c];
  }
}

// a[r, c] -= sum_k L[r, at + k] L[c, at + k] for r >= c >= at + kBlock.
__global__ void __launch_bounds__(kThreads) UpdateRest(CudaParams p, int64_t at) {
  if (blockIdx.y > blockIdx.x) return;  // above the diagonal
  __shared__ __align__(16) double rows[kStep][kRow], columns[kStep][kRow];
  const int64_t first = at + kBlock, r0 = first + static_cast<int64_t>(blockIdx.x) * kTile,
                c0 = first + static_cast<int64_t>(blockIdx.y) * kTile;
  const int part_r = static_cast<int>(threadIdx.x) / kSide, part_c = static_cast<int>(threadIdx.x) % kSide;
  double sum[kPart][kPart] = {};
  for (int k0 = 0; k0 < kBlock; k0 += kStep) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kStep; i += kThreads) {
      const int row = i / kStep, k = i % kStep;
      rows[k][row] = r0 + row < p.n ? p.a[(r0 + row) * p.stride + at + k0 + k] : 0;
      columns[k][row] = c0 + row < p.n ? p.a[(c0 + row) * p.stride + at + k0 + k] : 0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      double a[kPart], b[kPart];
#pragma unroll
      for (int i = 0; i < kPart; i += 2) {  // pairs half a tile apart
        const int at_pair = i / 2 * (kTile / 2);
        *reinterpret_cast<double2*>(a + i) =
            *reinterpret_cast<const double2*>(&rows[k][part_r * 2 + at_pair]);
        *reinterpret_cast<double2*>(b + i) =
            *reinterpret_cast<const double2*>(&columns[k][part_c * 2 + at_pair]);
      }
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
#pragma unroll
        for (int j = 0; j < kPart; ++j) sum[i][j] = fma(a[i], b[j], sum[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    const int64_t row = r0 + part_r * 2 + i / 2 * (kTile / 2) + i % 2;
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
      const int64_t column = c0 + part_c * 2 + j / 2 * (kTile / 2) + j % 2;
      if (row < p.n && column <= row) p.a[row * p.stride + column] -= sum[i][j];
    }
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  for (int64_t at = 0; at < p.n; at += kBlock) {
    const int64_t width = p.n - at < kBlock ? p.n - at : kBlock, below = p.n - at - width;
    SF_RETURN_IF_ERROR(cuda::Launch("cholesky_f64", FactorDiagonal,
                                    {.grid = dim3(1), .block = dim3(kThreads)}, stream, p, at,
                                    static_cast<int>(width)));
    if (below == 0) break;
    SF_RETURN_IF_ERROR(cuda::Launch(
        "cholesky_f64", SolveRows,
        {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(below, kRowThreads))), .block = dim3(kRowThreads)},
        stream, p, at));
    const unsigned tiles = static_cast<unsigned>(cuda::CeilDiv(below, kTile));
    SF_RETURN_IF_ERROR(cuda::Launch("cholesky_f64", UpdateRest,
                                    {.grid = dim3(tiles, tiles), .block = dim3(kThreads)}, stream, p, at));
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::cholesky_f64
