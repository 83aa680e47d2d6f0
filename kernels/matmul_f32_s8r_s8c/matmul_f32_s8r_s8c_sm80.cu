#include "kernels/cuda/block.cuh"
#include "kernels/cuda/few_rows_s8.cuh"
#include "kernels/cuda/few_rows_stream.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/row_stream.cuh"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {
namespace {

namespace row_stream = cuda::row_stream;

constexpr int kStages = 3;
constexpr int kStep = 128;         // bytes of K a stage: a swizzled row of 8 chunks
constexpr int kChunk = 16;         // bytes of one cp.async and one ldmatrix row
constexpr int kWarpTile = 32;      // outputs a warp in each direction: 2 x 4 tiles of m16n8
constexpr int64_t kFewRows = 32;   // up to so many rows 64x64 tiles are mostly padding
constexpr int64_t kBigRows = 512;  // from so many rows on 128x128 tiles fill the machine

// Where chunk c of row r lies: rows are 128 bytes, chunks are permuted by the row.
__device__ int Swizzled(int row, int chunk) { return row * kStep + ((chunk ^ (row & 7)) * kChunk); }

struct Tile {
  int linear = 0;
  int64_t n0 = 0;
};
template <int kN>
__device__ Tile TileOf(const cuda::LinearGroup& group, int64_t index) {
  Tile tile;
  while (tile.linear + 1 < group.count) {
    const int64_t tiles = cuda::CeilDiv(group.linear[tile.linear].n, kN);
    if (index < tiles) break;
    index -= tiles;
    ++tile.linear;
  }
  tile.n0 = index * kN;
  return tile;
}

// Scales, kept columns, bias: the CPU's order.
__device__ void Finish(const CudaParams& p, const cuda::Linear& w, int64_t m, int64_t n, int32_t sum) {
  if (m >= p.m || n >= w.n) return;
  if (w.sums != nullptr) w.sums[m * w.n + n] = sum;
  float y = static_cast<float>(sum) * p.x_scale[m] * w.w_scale[n];
  if (w.kept_w != nullptr) {
    for (int64_t c = 0; c < p.num_kept; ++c) {
      const unsigned bits = w.kept_w[c * w.kept_stride + n];
      y = fmaf(p.kept_x[m * p.num_kept + c], __uint_as_float(bits << 16), y);
    }
  }
  if (w.bias != nullptr) y += w.bias[n];
  w.y[m * w.n + n] = y;
}

// One row: sums of four products on the CUDA cores.
template <int kChannels, int kDepth, int kBlocks>
__global__ void __launch_bounds__(row_stream::kThreads, kBlocks)
    matmul_f32_s8r_s8c_row_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ uint4 row[];  // the codes as they lie, zeros behind them
  cuda::LetNextStart();
  const Tile tile = TileOf<row_stream::kWarps * kChannels>(p.linears, blockIdx.x);
  const cuda::Linear& w = p.linears.linear[tile.linear];
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  const int64_t n0 = tile.n0 + threadIdx.x / cuda::kWarp * kChannels;
  row_stream::Channels<kChannels, kDepth> channels(w.w, w.n, n0, w.w_stride);
  cuda::WaitForInputs();  // weights do not depend on the kernel before
  const int words = static_cast<int>(w.w_stride) / 16,
            all = (words + cuda::kWarp - 1) / cuda::kWarp * cuda::kWarp;
  for (int i = static_cast<int>(threadIdx.x); i < all; i += row_stream::kThreads) {
    row[i] = i < words ? reinterpret_cast<const uint4*>(p.x)[i] : make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  int32_t sum[kChannels] = {};
  channels.Stream([&](int step, const uint4(&words)[kChannels]) {
    const uint4 x = row[step * cuda::kWarp + lane];
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      sum[c] = __dp4a(static_cast<int>(words[c].x), static_cast<int>(x.x), sum[c]);
      sum[c] = __dp4a(static_cast<int>(words[c].y), static_cast<int>(x.y), sum[c]);
      sum[c] = __dp4a(static_cast<int>(words[c].z), static_cast<int>(x.z), sum[c]);
      sum[c] = __dp4a(static_cast<int>(words[c].w), static_cast<int>(x.w), sum[c]);
    }
  });
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int32_t all_of_it = row_stream::WarpSum(sum[c]);
    if (lane == c) Finish(p, w, 0, n0 + c, all_of_it);
  }
}
template <int kChannels, int kDepth, int kBlocks>
absl::Status RunRow(const CudaParams& p, const cuda::Stream& stream) {
  const int64_t blocks = row_stream::BlocksOf(p.linears, kChannels);
  if (blocks == 0) return absl::OkStatus();
  return cuda::Launch("matmul_f32_s8r_s8c", matmul_f32_s8r_s8c_row_sm80<kChannels, kDepth, kBlocks>,
                      {.grid = dim3(static_cast<unsigned>(blocks)),
                       .block = dim3(row_stream::kThreads),
                       .shared_bytes = cuda::CeilDiv(p.k, row_stream::kStepBytes) * row_stream::kStepBytes,
                       .overlaps = true},
                      stream, p);
}
// A short row leaves lanes idle; kept columns are loaded ahead by the other kernel alone.
bool TakesRow(const CudaParams& p) {
  constexpr int64_t kLeastColumns = 2048;
  return p.m == 1 && p.num_kept == 0 && p.k >= kLeastColumns &&
         cuda::CeilDiv(p.k, row_stream::kStepBytes) * row_stream::kStepBytes <= 48 << 10;
}

// The same for a warp's 32x32 outputs: row m + 16 i + 8 (e / 2), column n + 8 j + e % 2 of acc[i][j][e].
// Everything is loaded before the first store, which might overwrite it for all the compiler knows.
__device__ void FinishTile(const CudaParams& p, const cuda::Linear& w, int64_t m, int64_t n,
                           const int32_t (&acc)[2][4][4]) {
  const auto row = [&](int r) { return m + r * 8; };                 // r = 2 i + e / 2
  const auto column = [&](int c) { return n + c / 2 * 8 + c % 2; };  // c = 2 j + e % 2
  float x_scale[4], w_scale[8];
#pragma unroll
  for (int r = 0; r < 4; ++r) x_scale[r] = row(r) < p.m ? p.x_scale[row(r)] : 0.0f;
#pragma unroll
  for (int c = 0; c < 8; ++c) w_scale[c] = column(c) < w.n ? w.w_scale[column(c)] : 0.0f;
  float y[4][8];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      y[r][c] = static_cast<float>(acc[r / 2][c / 2][r % 2 * 2 + c % 2]) * x_scale[r] * w_scale[c];
    }
  }
  for (int64_t k = 0; k < p.num_kept && w.kept_w != nullptr; ++k) {
    float x[4], kept[8];
#pragma unroll
    for (int r = 0; r < 4; ++r) x[r] = row(r) < p.m ? p.kept_x[row(r) * p.num_kept + k] : 0.0f;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const unsigned bits = column(c) < w.n ? w.kept_w[k * w.kept_stride + column(c)] : 0u;
      kept[c] = __uint_as_float(bits << 16);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
#pragma unroll
      for (int c = 0; c < 8; ++c) y[r][c] = fmaf(x[r], kept[c], y[r][c]);
    }
  }
  if (w.bias != nullptr) {
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const float bias = column(c) < w.n ? w.bias[column(c)] : 0.0f;
#pragma unroll
      for (int r = 0; r < 4; ++r) y[r][c] += bias;
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      if (row(r) >= p.m || column(c) >= w.n) continue;
      w.y[row(r) * w.n + column(c)] = y[r][c];
      if (w.sums != nullptr) w.sums[row(r) * w.n + column(c)] = acc[r / 2][c / 2][r % 2 * 2 + c % 2];
    }
  }
}

template <int kTile>
__global__ void __launch_bounds__(kTile* kTile / 32) matmul_f32_s8r_s8c_sm80(CudaParams p) {
  constexpr int kThreads = kTile * kTile / 32;  // a warp a 32x32 piece
  constexpr int kWarpsN = kTile / kWarpTile;
  constexpr int kOperand = kTile * kStep;          // bytes of one operand in a stage
  extern __shared__ __align__(128) int8_t ring[];  // [kStages][x, w][kTile][kStep]
  const Tile tile = TileOf<kTile>(p.linears, blockIdx.x);
  const cuda::Linear& w = p.linears.linear[tile.linear];
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * kTile, n0 = tile.n0;
  const int64_t row_bytes = w.w_stride;  // of x as well
  const int64_t steps = cuda::CeilDiv(row_bytes, kStep);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const uint32_t base = cuda::SharedAddress(ring);

  const auto load = [&](int64_t step) {
    if (step < steps) {
      const uint32_t stage = base + static_cast<uint32_t>(step % kStages) * (2 * kOperand);
#pragma unroll
      for (int i = 0; i < kTile * (kStep / kChunk) / kThreads; ++i) {
        const int at = thread + i * kThreads, row = at / (kStep / kChunk), chunk = at % (kStep / kChunk);
        const int64_t byte = step * kStep + chunk * kChunk;
        const bool inside = byte < row_bytes;
        const uint32_t to = stage + static_cast<uint32_t>(Swizzled(row, chunk));
        const bool has_x = inside && m0 + row < p.m, has_w = inside && n0 + row < w.n;
        cuda::CopyAsync16(to, has_x ? p.x + (m0 + row) * row_bytes + byte : p.x, has_x);
        const int8_t* codes = static_cast<const int8_t*>(w.w);
        cuda::CopyAsync16(to + kOperand, has_w ? codes + (n0 + row) * row_bytes + byte : codes, has_w);
      }
    }
    cuda::CommitCopies();  // empty ones too: the count of groups is the count of steps
  };

  int32_t acc[2][4][4] = {};
  const int warp_m = warp / kWarpsN * kWarpTile, warp_n = warp % kWarpsN * kWarpTile;
  const auto multiply = [&](int64_t step) {
    const uint32_t x = base + static_cast<uint32_t>(step % kStages) * (2 * kOperand), weights = x + kOperand;
#pragma unroll
    for (int k = 0; k < kStep / 32; ++k) {
      uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // Matrices of A: rows 0-7 and 8-15 at k, then both at k + 16; of B: n 0-7 at k and k + 16, then n
        // 8-15.
        const int row_a = warp_m + i * 16 + lane % 16, chunk_a = 2 * k + lane / 16;
        cuda::LoadMatrices(x + static_cast<uint32_t>(Swizzled(row_a, chunk_a)), a[i]);
        const int row_b = warp_n + i * 16 + lane % 8 + lane / 16 * 8, chunk_b = 2 * k + lane / 8 % 2;
        cuda::LoadMatrices(weights + static_cast<uint32_t>(Swizzled(row_b, chunk_b)), b[i]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
          cuda::MmaS8(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  };

  for (int s = 0; s + 1 < kStages; ++s) load(s);
  for (int64_t step = 0; step < steps; ++step) {
    cuda::WaitCopies<kStages - 2>();
    __syncthreads();  // the stage is full for everybody, and the one before it is free
    load(step + kStages - 1);
    multiply(step);
  }

  FinishTile(p, w, m0 + warp_m + lane / 4, n0 + warp_n + lane % 4 * 2, acc);
}

// Up to 32 rows: bound by the bytes of W.
template <int kTiles, int kBlocks>
__global__ void __launch_bounds__(cuda::kFewWarps* cuda::kWarp)
    matmul_f32_s8r_s8c_few_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ int32_t partial[];
  const Tile tile = TileOf<cuda::kFewChannels * kBlocks>(p.linears, blockIdx.x);
  const cuda::Linear& w = p.linears.linear[tile.linear];
  const cuda::FewRowsOperands operands = {
      .m = p.m, .n = w.n, .row_bytes = w.w_stride, .x = p.x, .w = static_cast<const int8_t*>(w.w)};
  cuda::FewRowsSums<kTiles, kBlocks>(operands, static_cast<int64_t>(blockIdx.y) * 8 * kTiles, tile.n0,
                                     partial,
                                     [&](int64_t m, int64_t n, int32_t sum) { Finish(p, w, m, n, sum); });
}

// Up to 8 rows that fit into shared memory: the same sums, W streamed past them.
struct FewRows {
  using Params = CudaParams;
  using Sum = int32_t;
  using Codes = cuda::stream::Codes8;
  static constexpr int kColumns = 1, kMaxColumns = 8, kMetaBytes = 0, kSteps = 3, kBlocks = 2;
  static constexpr bool kTail = true;
  __host__ __device__ static int64_t NumKept(const CudaParams& p) { return p.num_kept; }
  __device__ static const float* KeptX(const CudaParams& p) { return p.kept_x; }
  __device__ static void Stage(const CudaParams& p, const cuda::stream::Layout& l, char* shared) {
    const int row_bytes = static_cast<int>(p.linears.linear[0].w_stride);
    const int parts = l.chunks * cuda::stream::kChunk / 16;
    for (int i = static_cast<int>(threadIdx.x); i < l.columns * parts; i += cuda::stream::kThreads) {
      const int row = i / parts, at = i % parts * 16;
      *reinterpret_cast<uint4*>(shared + row * l.stride + at) =
          at < row_bytes ? cuda::LoadCached16(p.x + row * row_bytes + at) : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ static void Add(const Codes::Step& codes, int chunk, const uint4& x, const float4&,
                             int32_t (&acc)[4]) {
    Codes::Multiply(codes, chunk, x, acc);
  }
  __device__ static void Finish(const CudaParams& p, int linear, int64_t row, int64_t n, const int32_t* sums,
                                const cuda::stream::Kept& kept) {
    const cuda::Linear& w = p.linears.linear[linear];
    if (w.sums != nullptr) w.sums[row * w.n + n] = sums[0];
    float y = static_cast<float>(sums[0]) * p.x_scale[row] * w.w_scale[n];
    if (kept.w != nullptr) {
#pragma unroll 8
      for (int c = 0; c < static_cast<int>(p.num_kept); ++c) {
        const unsigned bits = kept.w[c * cuda::stream::kChannels];
        y = fmaf(kept.x[c], __uint_as_float(bits << 16), y);
      }
    }
    if (w.bias != nullptr) y += w.bias[n];
    w.y[row * w.n + n] = y;
  }
};

template <int kTiles, int kBlocks>
absl::Status LaunchFew(const CudaParams& p, const cuda::Stream& stream) {
  int64_t tiles = 0;
  for (int i = 0; i < p.linears.count; ++i) {
    tiles += cuda::CeilDiv(p.linears.linear[i].n, cuda::kFewChannels * kBlocks);
  }
  return cuda::Launch(
      "matmul_f32_s8r_s8c", matmul_f32_s8r_s8c_few_sm80<kTiles, kBlocks>,
      {.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(cuda::CeilDiv(p.m, 8 * kTiles))),
       .block = dim3(cuda::kFewWarps * cuda::kWarp),
       .shared_bytes = int64_t{sizeof(int32_t)} * cuda::kFewPartials<kTiles, kBlocks>,
       .overlaps = true},
      stream, p);
}

template <int kTile>
absl::Status LaunchTiles(const CudaParams& p, const cuda::Stream& stream) {
  int64_t tiles = 0;
  for (int i = 0; i < p.linears.count; ++i) tiles += cuda::CeilDiv(p.linears.linear[i].n, kTile);
  return cuda::Launch(
      "matmul_f32_s8r_s8c", matmul_f32_s8r_s8c_sm80<kTile>,
      {.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(cuda::CeilDiv(p.m, kTile))),
       .block = dim3(kTile * kTile / 32),
       .shared_bytes = int64_t{2} * kStages * kTile * kStep},
      stream, p);
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  if (TakesRow(p)) return RunRow<2, 6, 2>(p, stream);
  if (cuda::stream::Fits<FewRows>(p)) return cuda::stream::Run<FewRows>("matmul_f32_s8r_s8c", p, stream);
  if (p.m <= 8) return LaunchFew<1, 1>(p, stream);
  if (p.m <= 16) return LaunchFew<2, 1>(p, stream);
  if (p.m <= kFewRows) return LaunchFew<4, 1>(p, stream);
  int64_t outputs = 0;
  for (int i = 0; i < p.linears.count; ++i) outputs += p.linears.linear[i].n;
  if (p.m >= kBigRows && p.m * outputs >= int64_t{128 * 128} * 256) return LaunchTiles<128>(p, stream);
  return LaunchTiles<64>(p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
