#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_grids_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {
namespace {

constexpr int kTile = 64, kPart = 4, kSide = kTile / kPart, kThreads = kSide * kSide;
constexpr int kWords = 4, kStep = 4 * kWords;  // 16 codes at a time: divides every group

// `sum` of a channel's codes, or `acc` of groups that have been scaled.
__device__ void Finish(const GridParams& g, int which, int64_t m, int64_t n, int32_t sum, float acc) {
  const matmul_f32_s8r_s8c::CudaParams& p = g.base;
  const cuda::Linear& w = p.linears.linear[which];
  float y = acc;
  if (w.group == 0) {
    if (g.x_zero != nullptr) sum -= g.x_zero[m] * g.code_sum[which][n];
    y = static_cast<float>(sum) * p.x_scale[m] * w.w_scale[n];
  } else {
    if (g.x_zero != nullptr) y = y - static_cast<float>(g.x_zero[m]) * g.row_sum[which][n];
    if (g.x_group == 0) y = y * p.x_scale[m];
  }
  if (w.kept_w != nullptr) {
    for (int64_t c = 0; c < p.num_kept; ++c) {
      const unsigned bits = w.kept_w[c * w.kept_stride + n];
      y = fmaf(p.kept_x[m * p.num_kept + c], __uint_as_float(bits << 16), y);
    }
  }
  if (w.bias != nullptr) y += w.bias[n];
  w.y[m * w.n + n] = y;
}

__global__ void __launch_bounds__(kThreads)
    matmul_f32_s8r_sxg_grids_sm80(const __grid_constant__ GridParams g) {
  __shared__ int xs[kWords][kTile + 4], ws[kWords][kTile + 4];
  const matmul_f32_s8r_s8c::CudaParams& p = g.base;
  int64_t index = blockIdx.x;
  int which = 0;
  while (which + 1 < p.linears.count && index >= cuda::CeilDiv(p.linears.linear[which].n, kTile)) {
    index -= cuda::CeilDiv(p.linears.linear[which].n, kTile);
    ++which;
  }
  const cuda::Linear& w = p.linears.linear[which];
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTile, n0 = index * kTile, row_bytes = w.w_stride;
  const int64_t groups = w.group > 0 ? cuda::CeilDiv(p.k, w.group) : 0;
  const int64_t x_groups = g.x_group > 0 ? p.k / g.x_group : 1;
  const int thread = static_cast<int>(threadIdx.x), part_m = thread / kSide, part_n = thread % kSide;
  const int row = thread / kWords, word = thread % kWords;  // what this thread loads
  const int8_t* x_row = p.x + (m0 + row) * row_bytes + word * 4;
  const int8_t* w_row = static_cast<const int8_t*>(w.w) + (n0 + row) * row_bytes + word * 4;
  const bool has_x = m0 + row < p.m, has_w = n0 + row < w.n;
  float acc[kPart][kPart] = {};
  int sum[kPart][kPart] = {};
  for (int64_t k0 = 0; k0 < row_bytes; k0 += kStep) {
    __syncthreads();
    xs[word][row] = has_x ? *reinterpret_cast<const int*>(x_row + k0) : 0;
    ws[word][row] = has_w ? *reinterpret_cast<const int*>(w_row + k0) : 0;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kWords; ++k) {
      const int4 a = *reinterpret_cast<const int4*>(&xs[k][part_m * kPart]);
      const int4 b = *reinterpret_cast<const int4*>(&ws[k][part_n * kPart]);
      const int as[kPart] = {a.x, a.y, a.z, a.w}, bs[kPart] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
#pragma unroll
        for (int j = 0; j < kPart; ++j) sum[i][j] = __dp4a(as[i], bs[j], sum[i][j]);
      }
    }
    const int64_t end = k0 + kStep;
    if (groups == 0 || (end % w.group != 0 && end < row_bytes)) continue;
#pragma unroll
    for (int i = 0; i < kPart; ++i) {
      const int64_t m = m0 + part_m * kPart + i;
      const float x_scale = g.x_group > 0 && m < p.m ? p.x_scale[m * x_groups + k0 / g.x_group] : 1.0f;
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        const int64_t n = n0 + part_n * kPart + j;
        const float scale = n < w.n ? w.w_scale[n * groups + k0 / w.group] : 0.0f;
        float value = static_cast<float>(sum[i][j]);
        if (g.x_group > 0) value = value * x_scale;
        acc[i][j] = acc[i][j] + scale * value;  // two roundings, as on the CPU
        sum[i][j] = 0;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
      const int64_t m = m0 + part_m * kPart + i, n = n0 + part_n * kPart + j;
      if (m < p.m && n < w.n) Finish(g, which, m, n, sum[i][j], acc[i][j]);
    }
  }
}

}  // namespace

absl::Status RunGrids(const GridParams& g, const cuda::Stream& stream) {
  const matmul_f32_s8r_s8c::CudaParams& p = g.base;
  if (p.m == 0) return absl::OkStatus();
  int64_t tiles = 0;
  for (int i = 0; i < p.linears.count; ++i) tiles += cuda::CeilDiv(p.linears.linear[i].n, kTile);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(cuda::CeilDiv(p.m, kTile)));
  return cuda::Launch("matmul_f32_s8r_sxg grids", matmul_f32_s8r_sxg_grids_sm80,
                      {.grid = grid, .block = dim3(kThreads)}, stream, g);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
