#include "kernels/cuda/ceil_div.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32_ordered_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_f32 {
namespace {

constexpr int kTile = 128, kPart = 8, kSide = kTile / kPart, kThreads = kSide * kSide;
constexpr int kStep = 16, kRow = kTile + 4;  // columns of a buffer; floats between them
static_assert(kSumBlock % kStep == 0);

// A thread's share of a step of one operand: 4 columns of two rows.
struct Piece {
  float4 values[2];
};

__device__ inline Piece LoadPiece(const float* from, int64_t stride, int64_t row, int64_t rows, int64_t k0,
                                  int64_t k) {
  Piece piece;
  const int64_t column = k0 + threadIdx.x % 4 * 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t at = row + threadIdx.x / 4 + i * (kTile / 2);
    const bool there = at < rows && column < k;
    piece.values[i] =
        there ? *reinterpret_cast<const float4*>(from + at * stride + column) : make_float4(0, 0, 0, 0);
  }
  return piece;
}

// A step lies column after column, so that a thread's rows are beside each other.
__device__ inline void StorePiece(const Piece& piece, float (*to)[kRow]) {
  const int column = static_cast<int>(threadIdx.x) % 4 * 4, row = static_cast<int>(threadIdx.x) / 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4& v = piece.values[i];
    const int at = row + i * (kTile / 2);
    to[column][at] = v.x;
    to[column + 1][at] = v.y;
    to[column + 2][at] = v.z;
    to[column + 3][at] = v.w;
  }
}

__global__ void __launch_bounds__(kThreads, 1) matmul_f32_f32_f32_ordered_sm80(OrderedParams p) {
  __shared__ __align__(16) float xs[2][kStep][kRow], ws[2][kStep][kRow];
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kTile, n0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int part_m = static_cast<int>(threadIdx.x) / kSide, part_n = static_cast<int>(threadIdx.x) % kSide;
  // Four outputs of a thread lie together, the other four half a tile on: lanes read lines without gaps.
  const auto row_at = [&](int i) { return m0 + part_m * 4 + i / 4 * (kTile / 2) + i % 4; };
  const auto column_at = [&](int j) { return n0 + part_n * 4 + j / 4 * (kTile / 2) + j % 4; };
  float total[kPart][kPart] = {};
  if (p.adds) {
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        if (row_at(i) < p.m && column_at(j) < p.n) total[i][j] = p.y[row_at(i) * p.y_stride + column_at(j)];
      }
    }
  }
  Piece x = LoadPiece(p.x, p.x_stride, m0, p.m, 0, p.k), w = LoadPiece(p.w, p.w_stride, n0, p.n, 0, p.k);
  int buffer = 0;
  for (int64_t block = 0; block < p.k; block += kSumBlock) {
    float sum[kPart][kPart] = {};
    const int64_t end = block + kSumBlock < p.k ? block + kSumBlock : p.k;
    for (int64_t k0 = block; k0 < end; k0 += kStep) {
      StorePiece(x, xs[buffer]);
      StorePiece(w, ws[buffer]);
      __syncthreads();  // the other buffer was read before the last one
      if (k0 + kStep < p.k) {
        x = LoadPiece(p.x, p.x_stride, m0, p.m, k0 + kStep, p.k);
        w = LoadPiece(p.w, p.w_stride, n0, p.n, k0 + kStep, p.k);
      }
#pragma unroll
      for (int k = 0; k < kStep; ++k) {
        float a[kPart], b[kPart];
#pragma unroll
        for (int i = 0; i < kPart; i += 4) {
          const int at = i / 4 * (kTile / 2);
          *reinterpret_cast<float4*>(a + i) =
              *reinterpret_cast<const float4*>(&xs[buffer][k][part_m * 4 + at]);
          *reinterpret_cast<float4*>(b + i) =
              *reinterpret_cast<const float4*>(&ws[buffer][k][part_n * 4 + at]);
        }
#pragma unroll
        for (int i = 0; i < kPart; ++i) {
#pragma unroll
          for (int j = 0; j < kPart; ++j) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
        }
      }
      buffer ^= 1;
    }
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
#pragma unroll
      for (int j = 0; j < kPart; ++j) total[i][j] += sum[i][j];
    }
  }
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    if (row_at(i) >= p.m) continue;
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
      if (column_at(j) < p.n) p.y[row_at(i) * p.y_stride + column_at(j)] = total[i][j];
    }
  }
}

}  // namespace

absl::Status RunOrderedCuda(const OrderedParams& p, const cuda::Stream& stream) {
  if (p.m == 0 || p.n == 0) return absl::OkStatus();
  return cuda::Launch("matmul_f32_f32_f32_ordered", matmul_f32_f32_f32_ordered_sm80,
                      {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(p.m, kTile)),
                                    static_cast<unsigned>(cuda::CeilDiv(p.n, kTile))),
                       .block = dim3(kThreads)},
                      stream, p);
}

}  // namespace spikefold::kernels::matmul_f32_f32_f32
