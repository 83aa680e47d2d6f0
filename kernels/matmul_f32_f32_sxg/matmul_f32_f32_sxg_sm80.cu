#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_cuda.h"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_sxg {
namespace {

constexpr int kTile = 64, kPart = 4, kSide = kTile / kPart, kThreads = kSide * kSide;
constexpr int kStep = 16;  // columns at a time: divides every group

// Codes [n, w_stride] and scales [n, groups].
struct Rows {
  __device__ static int Code(const cuda::Linear& w, int64_t, int64_t n, int64_t at) {
    return static_cast<const int8_t*>(w.w)[n * w.w_stride + at];
  }
  __device__ static float Scale(const cuda::Linear& w, int64_t k, int64_t n, int64_t at) {
    return w.w_scale[n * cuda::CeilDiv(k, w.group) + at / w.group];
  }
};
// Tiles of 4-bit codes (matmul_f32_f32_s4g_cuda.h).
struct Tiles {
  static constexpr int64_t kRows = matmul_f32_f32_s4g::kTileRows, kColumns = matmul_f32_f32_s4g::kTileColumns;
  __device__ static int64_t Tile(int64_t k, int64_t n, int64_t at) {
    return n / kRows * (k / kColumns) + at / kColumns;
  }
  // Of the scale and the zero point of a channel.
  __device__ static int64_t Place(int64_t k, int64_t n, int64_t at) {
    return Tile(k, n, at) * kRows + n % 8 * 2 + n / 8 % 2;
  }
  __device__ static int Code(const cuda::Linear& w, int64_t k, int64_t n, int64_t at) {
    const int64_t column = at % kColumns, lane = n % 8 * 4 + column % 16 / 4;
    const uint32_t word = static_cast<const uint32_t*>(w.w)[(Tile(k, n, at) * 32 + lane) * 4 + column / 16];
    const int64_t nibble = n / 8 % 2 + column % 4 / 2 * 2 + column % 2 * 4;
    const int zero = w.w_zero == nullptr ? 8 : w.w_zero[Place(k, n, at)];
    return static_cast<int>(word >> (4 * nibble) & 0xf) - zero;
  }
  __device__ static float Scale(const cuda::Linear& w, int64_t k, int64_t n, int64_t at) {
    return w.w_scale[Place(k, n, at)];
  }
};
// Tiles of codes in two levels (matmul_f32_s8r_u4h_cuda.h): a group's scale is its factor times the
// channel's.
struct TwoLevels {
  struct Nibble {
    const uint8_t* tile;
    matmul_f32_s8r_u4h::Place at;
  };
  __device__ static Nibble Find(const cuda::Linear& w, int64_t n, int64_t column) {
    using namespace matmul_f32_s8r_u4h;
    const int64_t tile = column / kTileColumns * cuda::CeilDiv(w.n, kTileRows) + n / kTileRows;
    return {static_cast<const uint8_t*>(w.w) + tile * kTileBytes,
            PlaceOf(n % kTileRows, column % kTileColumns)};
  }
  __device__ static int Code(const cuda::Linear& w, int64_t, int64_t n, int64_t at) {
    const Nibble nibble = Find(w, n, at);
    const uint8_t *code = nibble.tile + nibble.at.code, *factor = nibble.tile + nibble.at.factor;
    return (*code >> nibble.at.shift & 0xf) - factor[1] / factor[0];
  }
  __device__ static float Scale(const cuda::Linear& w, int64_t, int64_t n, int64_t at) {
    const Nibble nibble = Find(w, n, at);
    return static_cast<float>(nibble.tile[nibble.at.factor]) * w.w_scale[n];
  }
};

template <typename Weights>
__global__ void __launch_bounds__(kThreads)
    matmul_f32_f32_sxg_sm80(const __grid_constant__ cuda::SimtParams p) {
  __shared__ float xs[kStep][kTile + 4], ws[kStep][kTile + 4];
  const int64_t num_rows = cuda::simt::NumRows(p), m0 = static_cast<int64_t>(blockIdx.y) * kTile;
  if (m0 >= num_rows) return;
  int64_t index = blockIdx.x;
  const int which = cuda::simt::LinearAt(p.linears, kTile, index);
  const cuda::Linear& linear = p.linears.linear[which];
  const int64_t n0 = index * kTile;
  const int thread = static_cast<int>(threadIdx.x), part_m = thread / kSide, part_n = thread % kSide;
  float acc[kPart][kPart] = {}, sum[kPart][kPart] = {};
  for (int64_t k0 = 0; k0 < p.k; k0 += kStep) {
    __syncthreads();
    for (int i = thread; i < kTile * kStep; i += kThreads) {
      const int row = i / kStep, column = i % kStep;
      const int64_t k = k0 + column;
      const bool has_x = m0 + row < num_rows && k < p.k, has_w = n0 + row < linear.n && k < p.k;
      xs[column][row] = has_x ? p.x[cuda::simt::RowAt(p, m0 + row) * p.k + k] : 0.0f;
      ws[column][row] = has_w ? static_cast<float>(Weights::Code(linear, p.k, n0 + row, k)) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      const float4 a = *reinterpret_cast<const float4*>(&xs[k][part_m * kPart]);
      const float4 b = *reinterpret_cast<const float4*>(&ws[k][part_n * kPart]);
      const float as[kPart] = {a.x, a.y, a.z, a.w}, bs[kPart] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
#pragma unroll
        for (int j = 0; j < kPart; ++j) sum[i][j] = fmaf(as[i], bs[j], sum[i][j]);
      }
    }
    const int64_t end = k0 + kStep;
    if (end % linear.group != 0 && end < p.k) continue;
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
      const int64_t n = n0 + part_n * kPart + j;
      const float scale = n < linear.n ? Weights::Scale(linear, p.k, n, k0) : 0.0f;
#pragma unroll
      for (int i = 0; i < kPart; ++i) {
        acc[i][j] = fmaf(scale, sum[i][j], acc[i][j]);
        sum[i][j] = 0;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kPart; ++i) {
    const int64_t m = m0 + part_m * kPart + i;
    if (m >= num_rows) continue;
#pragma unroll
    for (int j = 0; j < kPart; ++j) {
      const int64_t n = n0 + part_n * kPart + j;
      if (n < linear.n) cuda::simt::Finish<int8_t>(p, which, cuda::simt::RowAt(p, m), n, acc[i][j]);
    }
  }
}

template <typename Weights>
absl::Status Launch(const cuda::SimtParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  int64_t tiles = 0;
  for (int i = 0; i < p.linears.count; ++i) tiles += cuda::CeilDiv(p.linears.linear[i].n, kTile);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(cuda::CeilDiv(p.m, kTile)));
  return cuda::Launch("matmul_f32_f32_sxg", matmul_f32_f32_sxg_sm80<Weights>,
                      {.grid = grid, .block = dim3(kThreads)}, stream, p);
}

}  // namespace

absl::Status RunCuda(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return Launch<Rows>(p, stream);
}
absl::Status RunTiles(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return Launch<Tiles>(p, stream);
}
absl::Status RunTwoLevels(const cuda::SimtParams& p, const cuda::Stream& stream) {
  return Launch<TwoLevels>(p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_sxg
