#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/row_stream.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_bf16/matmul_f32_f32_bf16_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_bf16 {
namespace {

namespace row_stream = cuda::row_stream;
constexpr char kName[] = "matmul_f32_f32_bf16";
constexpr int kLaneColumns = 8, kStepColumns = cuda::kWarp * kLaneColumns, kFours = kLaneColumns / 4;

int64_t RowBytes(int64_t k) { return row_stream::RowFloats(k, kStepColumns) * int64_t{sizeof(float)}; }

// 8 weights against 8 values of a row.
__device__ inline float AddBf16(const float (&v)[kLaneColumns], const uint4& words, float sum) {
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(v[2 * i], __uint_as_float(pairs[i] << 16), sum);
    sum = fmaf(v[2 * i + 1], __uint_as_float(pairs[i] & 0xffff0000u), sum);
  }
  return sum;
}

// 8 columns of some rows against some channels. x: of the first row, the others `stride` further.
template <int kRows, int kChannels>
__device__ inline void Multiply(const float4* x, int stride, const uint4 (&words)[kChannels],
                                float (&sum)[kRows][kChannels]) {
  if constexpr (kRows == 1) {
    const float4 low = x[0], high = x[cuda::kWarp];
    const float v[kLaneColumns] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int c = 0; c < kChannels; ++c) sum[0][c] = AddBf16(v, words[c], sum[0][c]);
  } else {
    float wide[kChannels][kLaneColumns];  // widened once for all rows
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const uint32_t pairs[4] = {words[c].x, words[c].y, words[c].z, words[c].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        wide[c][2 * i] = __uint_as_float(pairs[i] << 16);
        wide[c][2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float4 low = x[r * stride], high = x[r * stride + cuda::kWarp];
      const float v[kLaneColumns] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
#pragma unroll
        for (int i = 0; i < kLaneColumns; ++i) sum[r][c] = fmaf(v[i], wide[c][i], sum[r][c]);
      }
    }
  }
}

// kRows: p.m or more. kDepth: steps under way. kBlocks: of a multiprocessor.
template <int kRows, int kChannels, int kDepth, int kBlocks>
__global__ void __launch_bounds__(row_stream::kThreads, kBlocks)
    matmul_f32_f32_bf16_rows_sm80(const __grid_constant__ cuda::SimtParams p) {
  extern __shared__ float4 rows[];  // [kRows] as StageRow() leaves them, zeros behind the rows
  cuda::LetNextStart();
  int64_t index = blockIdx.x;
  const int which = cuda::simt::LinearAt(p.linears, row_stream::kWarps * kChannels, index);
  const cuda::Linear& w = p.linears.linear[which];
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  const int64_t n0 = (index * row_stream::kWarps + threadIdx.x / cuda::kWarp) * kChannels;
  row_stream::Channels<kChannels, kDepth> channels(w.w, w.n, n0, p.k * int64_t{sizeof(uint16_t)});
  cuda::WaitForInputs();  // weights do not depend on the kernel before
  const int k = static_cast<int>(p.k), m = static_cast<int>(p.m);
  const int stride = (k + kStepColumns - 1) / kStepColumns * kStepColumns / 4;
#pragma unroll 1
  for (int r = 0; r < kRows; ++r) {
    row_stream::StageRow<kFours>(r < m ? p.x + static_cast<int64_t>(r) * p.k : nullptr, k, rows + r * stride);
  }
  __syncthreads();
  float sum[kRows][kChannels] = {};
  channels.Stream([&](int step, const uint4(&words)[kChannels]) {
    Multiply<kRows, kChannels>(rows + step * (kStepColumns / 4) + lane, stride, words, sum);
  });
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const float v = row_stream::WarpSum(sum[r][c]);
      const bool mine = lane == (r * kChannels + c) % cuda::kWarp;
      if (mine && r < m && n0 + c < w.n) cuda::simt::Finish<__nv_bfloat16>(p, which, r, n0 + c, v);
    }
  }
}

int64_t RowsOf(int64_t m) { return m > 4 ? 8 : m > 2 ? 4 : m; }

template <int kRows, int kChannels, int kDepth, int kBlocks>
absl::Status RunRows(const cuda::SimtParams& p, const cuda::Stream& stream) {
  const int64_t blocks = row_stream::BlocksOf(p.linears, kChannels);
  if (blocks == 0) return absl::OkStatus();
  return cuda::Launch(kName, matmul_f32_f32_bf16_rows_sm80<kRows, kChannels, kDepth, kBlocks>,
                      {.grid = dim3(static_cast<unsigned>(blocks)),
                       .block = dim3(row_stream::kThreads),
                       .shared_bytes = kRows * RowBytes(p.k),
                       .overlaps = true},
                      stream, p);
}

// Rows that share a reading of W: as many as fit into a block's shared memory, at most 8; 0: not one.
int64_t RowsAtOnce(const cuda::SimtParams& p) {
  int64_t rows = RowsOf(p.m);
  while (rows > 0 && rows * RowBytes(p.k) > cuda::MaxSharedBytes()) rows /= 2;
  return rows;
}
// Rows that fit into a block's shared memory, and no more than there are.
absl::Status RunTogether(const cuda::SimtParams& p, const cuda::Stream& stream) {
  // As measured on an H200 with K of 576, 4096 and 14336.
  const bool is_long = p.k >= 6 * kStepColumns, two_fit = 8 * RowBytes(p.k) <= cuda::MaxSharedBytes();
  switch (RowsOf(p.m)) {
    case 1:
      return is_long ? RunRows<1, 2, 6, 2>(p, stream) : RunRows<1, 2, 4, 3>(p, stream);
    case 2:
      return is_long ? RunRows<2, 2, 6, 2>(p, stream) : RunRows<2, 2, 4, 3>(p, stream);
    case 4:
      return two_fit ? RunRows<4, 2, 4, 2>(p, stream) : RunRows<4, 4, 3, 1>(p, stream);
    default:
      return RunRows<8, 4, 3, 1>(p, stream);
  }
}

}  // namespace

bool TakesFewRows(const cuda::SimtParams& p) {
  constexpr int64_t kLeastColumns = 512;  // fewer leave most lanes idle
  return p.m >= 1 && p.m <= 8 && p.rows == nullptr && p.k % kLaneColumns == 0 && p.k >= kLeastColumns &&
         p.m <= 2 * RowsAtOnce(p);
}

absl::Status RunCuda(cuda::SimtParams p, const cuda::Stream& stream) {
  if (!TakesFewRows(p)) return cuda::RunSimt<__nv_bfloat16>(kName, p, stream);
  const int64_t at_once = RowsAtOnce(p), all = p.m;
  for (int64_t done = 0; done < all; done += at_once) {
    p.m = std::min(at_once, all - done);
    SF_RETURN_IF_ERROR(RunTogether(p, stream));
    p.x += p.m * p.k;
    for (int i = 0; i < p.linears.count; ++i) p.linears.linear[i].y += p.m * p.linears.linear[i].n;
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_bf16
