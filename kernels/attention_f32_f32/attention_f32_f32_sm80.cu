#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/attention_f32_f32/attention_f32_f32_tiles.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

// Sums over the 8 threads of a row, which are neighbours in a warp.
template <typename Combine>
__device__ float RowReduce(float value, Combine combine) {
  for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

template <int kMaxDim>
__global__ void __launch_bounds__(kThreads) attention_f32_f32_sm80(CudaParams p) {
  constexpr int kChunks = kMaxDim / (4 * kRowThreads);  // of 4 columns a thread owns
  extern __shared__ float shared[];
  const int d = static_cast<int>(p.head_dim), stride = d + kPad;
  float* q = shared;                   // [kRows][stride]
  float* k = q + kRows * stride;       // [kKeys][stride]
  float* v = k + kKeys * stride;       // [kKeys][stride]
  float* weight = v + kKeys * stride;  // [kRows][kKeys]
  const int64_t head = blockIdx.y, kv_head = head / (p.num_heads / p.num_kv_heads);
  const int64_t m0 = static_cast<int64_t>(blockIdx.x) * kRows;
  const int row = static_cast<int>(threadIdx.x) / kRowThreads,
            part = static_cast<int>(threadIdx.x) % kRowThreads;
  const int64_t m = m0 + row, position = p.first + m;

  LoadTile(q, p.q, m0, p.m, p.num_heads, head, d);

  float4 sum[kChunks];
  for (int c = 0; c < kChunks; ++c) sum[c] = make_float4(0, 0, 0, 0);
  float max = -INFINITY, total = 0;
  const int64_t last_row = m0 + kRows < p.m ? m0 + kRows : p.m;
  const int64_t end = p.first + last_row;  // keys that some row of this block sees
  int64_t begin = p.window > 0 ? p.first + m0 - p.window + 1 : 0;
  begin = begin > 0 ? begin / kKeys * kKeys : 0;
  for (int64_t j0 = begin; j0 < end; j0 += kKeys) {
    __syncthreads();
    LoadTile(k, p.k, j0, end, p.num_kv_heads, kv_head, d);
    LoadTile(v, p.v, j0, end, p.num_kv_heads, kv_head, d);
    __syncthreads();
    float score[kKeysPerThread];
    Products(q, k, row, part, d, score);
    float block_max = max;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const int64_t j = j0 + part + i * kRowThreads;
      const bool seen = j <= position && (p.window == 0 || j > position - p.window);
      score[i] = seen ? score[i] * p.scale : -INFINITY;
      block_max = fmaxf(block_max, score[i]);
    }
    block_max = RowReduce(block_max, cuda::Max());
    // Nothing seen so far leaves the maximum at -infinity: then every weight is 0, not NaN.
    const float base = block_max == -INFINITY ? 0.0f : block_max;
    const float shrink = expf(max - base);
    float block_total = 0;
#pragma unroll
    for (int i = 0; i < kKeysPerThread; ++i) {
      const float w = expf(score[i] - base);
      weight[row * kKeys + part + i * kRowThreads] = w;
      block_total += w;
    }
    total = fmaf(total, shrink, RowReduce(block_total, cuda::Sum()));
    max = block_max;
    __syncwarp();
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int column = (c * kRowThreads + part) * 4;
      if (column >= d) break;
      float4 acc = sum[c];
      acc = make_float4(acc.x * shrink, acc.y * shrink, acc.z * shrink, acc.w * shrink);
#pragma unroll 8
      for (int j = 0; j < kKeys; ++j) {
        const float w = weight[row * kKeys + j];
        const float4 b = Load4(v + j * stride + column);
        acc = make_float4(fmaf(w, b.x, acc.x), fmaf(w, b.y, acc.y), fmaf(w, b.z, acc.z), fmaf(w, b.w, acc.w));
      }
      sum[c] = acc;
    }
  }
  if (m >= p.m) return;
  float* o = p.o + (m * p.num_heads + head) * d;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kRowThreads + part) * 4;
    if (column >= d) break;
    *reinterpret_cast<float4*>(o + column) =
        make_float4(sum[c].x / total, sum[c].y / total, sum[c].z / total, sum[c].w / total);
  }
}

}  // namespace

absl::Status CheckHeadDim(const CudaParams& p) {
  if (p.head_dim <= 256 && p.head_dim % 4 == 0) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("backend \"cuda\": attention: head_dim=", p.head_dim,
                                               " is not a multiple of 4 up to 256; use --backend cpu"));
}

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  SF_RETURN_IF_ERROR(CheckHeadDim(p));
  const bool aligned = p.head_dim % 16 == 0 && p.head_dim <= 128;
  if (p.m >= kMmaRows && aligned) return RunMma(p, stream);
  const int64_t floats = (kRows + 2 * kKeys) * (p.head_dim + kPad) + kRows * kKeys;
  const cuda::Shape shape{
      .grid = dim3(static_cast<unsigned>(cuda::CeilDiv(p.m, kRows)), static_cast<unsigned>(p.num_heads)),
      .block = dim3(kThreads),
      .shared_bytes = floats * int64_t{sizeof(float)}};
  auto* kernel = p.head_dim <= 64    ? attention_f32_f32_sm80<64>
                 : p.head_dim <= 128 ? attention_f32_f32_sm80<128>
                                     : attention_f32_f32_sm80<256>;
  return cuda::Launch("attention_f32_f32", kernel, shape, stream, p);
}

}  // namespace spikefold::kernels::attention_f32_f32
