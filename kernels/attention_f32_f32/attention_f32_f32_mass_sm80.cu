// The softmax mass that each cache position receives, for the census: scores are made twice, once for the
// rows' maxima and sums, once for the columns.
#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/attention_f32_f32/attention_f32_f32_tiles.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

// 32 query rows and 32 keys of a head in shared memory.
struct Tiles {
  __device__ Tiles(const CudaParams& p, float* shared)
      : p(p),
        head(blockIdx.y),
        kv_head(head / (p.num_heads / p.num_kv_heads)),
        d(static_cast<int>(p.head_dim)),
        row(static_cast<int>(threadIdx.x) / kRowThreads),
        part(static_cast<int>(threadIdx.x) % kRowThreads),
        q(shared),
        k(q + kRows * (d + kPad)) {}
  __device__ void LoadRows(int64_t m0) const { LoadTile(q, p.q, m0, p.m, p.num_heads, head, d); }
  __device__ void LoadKeys(int64_t j0) const {
    LoadTile(k, p.k, j0, p.first + p.m, p.num_kv_heads, kv_head, d);
  }
  // Of row m0 + row and keys j0 + part + 8 i; -infinity: not seen.
  __device__ void Scores(int64_t m0, int64_t j0, float (&score)[kKeysPerThread]) const {
    Products(q, k, row, part, d, score);
    const int64_t position = p.first + m0 + row;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const int64_t j = j0 + part + i * kRowThreads;
      const bool seen = m0 + row < p.m && j <= position && (p.window == 0 || j > position - p.window);
      score[i] = seen ? score[i] * p.scale : -INFINITY;
    }
  }

  const CudaParams& p;
  int64_t head, kv_head;
  int d, row, part;
  float *q, *k;
};

// state [m, num_heads]: a row's largest score, and the sum of exp(score - largest).
__global__ void __launch_bounds__(kThreads) RowSums(const __grid_constant__ CudaParams p, float2* state) {
  extern __shared__ float shared[];
  const Tiles tiles(p, shared);
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kRows, m = m0 + tiles.row;
  tiles.LoadRows(m0);
  float top = -INFINITY, total = 0;
  const int64_t end = p.first + min(m0 + kRows, p.m);
  const int64_t begin = p.window > 0 ? max(int64_t{0}, p.first + m0 - p.window + 1) / kKeys * kKeys : 0;
  for (int64_t j0 = begin; j0 < end; j0 += kKeys) {
    __syncthreads();
    tiles.LoadKeys(j0);
    __syncthreads();
    float score[kKeysPerThread];
    tiles.Scores(m0, j0, score);
    float largest = top;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) largest = fmaxf(largest, score[i]);
    for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    }
    const float base = largest == -INFINITY ? 0.0f : largest;  // nothing seen so far: weights of 0, not NaN
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) sum += expf(score[i] - base);
    for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    total = fmaf(total, expf(top - base), sum);
    top = largest;
  }
  if (m < p.m && tiles.part == 0) state[m * p.num_heads + tiles.head] = make_float2(top, total);
}

// mass [num_heads, first + m]: a block 32 positions of a head, added up in the order of rows.
__global__ void __launch_bounds__(kThreads)
    ColumnMass(const __grid_constant__ CudaParams p, const float2* state, double* mass) {
  extern __shared__ float shared[];
  const Tiles tiles(p, shared);
  float* const weight = tiles.k + kKeys * (tiles.d + kPad);  // [kRows][kKeys]
  const int64_t j0 = static_cast<int64_t>(blockIdx.x) * kKeys, positions = p.first + p.m;
  tiles.LoadKeys(j0);
  const int64_t first_row = max(int64_t{0}, j0 - p.first) / kRows * kRows;
  const int key = static_cast<int>(threadIdx.x);  // of the first warp
  double sum = 0;
  for (int64_t m0 = first_row; m0 < p.m; m0 += kRows) {
    __syncthreads();
    tiles.LoadRows(m0);
    __syncthreads();
    float score[kKeysPerThread];
    tiles.Scores(m0, j0, score);
    const int64_t m = m0 + tiles.row;
    const float2 of_row = m < p.m ? state[m * p.num_heads + tiles.head] : make_float2(0, 1);
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      weight[tiles.row * kKeys + tiles.part + i * kRowThreads] =
          score[i] == -INFINITY ? 0.0f : expf(score[i] - of_row.x) / of_row.y;
    }
    __syncthreads();
    for (int r = 0; key < kKeys && r < kRows; ++r) sum += static_cast<double>(weight[r * kKeys + key]);
  }
  if (key < kKeys && j0 + key < positions) mass[tiles.head * positions + j0 + key] = sum;
}

}  // namespace

int64_t MassStateBytes(const CudaParams& p) { return p.m * p.num_heads * int64_t{sizeof(float2)}; }

absl::Status RunMass(const CudaParams& p, void* state, double* mass, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  SF_RETURN_IF_ERROR(CheckHeadDim(p));
  const int64_t floats = (kRows + kKeys) * (p.head_dim + kPad) + kRows * kKeys;
  const auto shape = [&](int64_t blocks) {
    return cuda::Shape{.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.num_heads)),
                       .block = dim3(kThreads),
                       .shared_bytes = floats * int64_t{sizeof(float)}};
  };
  auto* const of_rows = static_cast<float2*>(state);
  SF_RETURN_IF_ERROR(
      cuda::Launch("attention_f32_f32 mass", RowSums, shape(cuda::CeilDiv(p.m, kRows)), stream, p, of_rows));
  return cuda::Launch("attention_f32_f32 mass", ColumnMass, shape(cuda::CeilDiv(p.first + p.m, kKeys)),
                      stream, p, of_rows, mass);
}

}  // namespace spikefold::kernels::attention_f32_f32
