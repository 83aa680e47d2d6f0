// Design: a warp takes 16 query rows of a head through blocks of 32 or 64 keys at absolute positions with an
// online softmax (T. Dao, "FlashAttention-2", 2023). float32 rows become two bf16 values each, whose sum they
// are to 2^-17; a product is three multiplications on the tensor cores, the fourth is below float32's own
// rounding. A block of keys is split once, in shared memory, for all warps.
#include <cuda_bf16.h>

#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

constexpr int kWarpRows = 16;
constexpr int kPad = 8;  // bf16 values behind a row: ldmatrix meets no bank conflict

struct Halves {
  uint32_t high, low;
};
__device__ Halves Split(float a, float b) {
  const __nv_bfloat162 high = __floats2bfloat162_rn(a, b);
  const float2 rounded = __bfloat1622float2(high);
  const __nv_bfloat162 low = __floats2bfloat162_rn(a - rounded.x, b - rounded.y);
  return {*reinterpret_cast<const uint32_t*>(&high), *reinterpret_cast<const uint32_t*>(&low)};
}

// c += (a.high + a.low) * (b.high + b.low) but for the product of the low halves.
__device__ void Multiply(float (&c)[4], const uint32_t (&high)[4], const uint32_t (&low)[4],
                         const uint32_t (&b)[4]) {
  cuda::MmaBf16(c, high, b[0], b[1]);
  cuda::MmaBf16(c, high, b[2], b[3]);
  cuda::MmaBf16(c, low, b[0], b[1]);
}

// Keys a block: as many as leave the scores room in the registers.
template <int kDim>
inline constexpr int kKeysFor = kDim <= 64 ? 64 : 32;

template <int kDim, int kWarps>
__global__ void __launch_bounds__(kWarps* cuda::kWarp, 1)
    attention_f32_f32_mma_sm80(const __grid_constant__ CudaParams p) {
  constexpr int kKeys = kKeysFor<kDim>;
  constexpr int kThreads = kWarps * cuda::kWarp, kStride = kDim + kPad, kHalf = kKeys * kStride;
  extern __shared__ __align__(16) uint16_t rows[];  // K high, K low, V high, V low: [kKeys][kStride]
  const int d = static_cast<int>(p.head_dim), thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  const int64_t head = blockIdx.y, kv_head = head / (p.num_heads / p.num_kv_heads);
  // The last rows see the most keys: they start first.
  const int block0 = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kWarps * kWarpRows;
  const int m0 = block0 + warp * kWarpRows;
  const uint32_t base = cuda::SharedAddress(rows);

  // The queries' high halves stay in registers; each lane keeps its low ones in shared memory.
  uint32_t q_high[kDim / 16][4];
  uint4* const q_low = reinterpret_cast<uint4*>(rows + 4 * kHalf) + warp * (kDim / 16) * 32 + lane;
#pragma unroll
  for (int s = 0; s < kDim / 16; ++s) {
    uint32_t low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t m = m0 + g + i % 2 * 8;
      const int column = s * 16 + t * 2 + i / 2 * 8;
      float2 x = make_float2(0, 0);
      if (m < p.m && column < d) {
        x = *reinterpret_cast<const float2*>(p.q + (m * p.num_heads + head) * d + column);
      }
      const Halves halves = Split(x.x, x.y);
      q_high[s][i] = halves.high;
      low[i] = halves.low;
    }
    q_low[s * 32] = make_uint4(low[0], low[1], low[2], low[3]);
  }

  float out[kDim / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  const int rows_end = static_cast<int>(p.m), first = static_cast<int>(p.first);
  const int window = static_cast<int>(p.window);
  const int end = first + min(block0 + kWarps * kWarpRows, rows_end);
  const int oldest = window > 0 ? first + block0 - window + 1 : 0;
  const int begin = oldest > 0 ? oldest / kKeys * kKeys : 0;
  const int warp_last = first + min(m0 + kWarpRows, rows_end) - 1;  // position of the warp's last row

  const auto load = [&](const float* from, int j0, uint16_t* to) {
#pragma unroll 1
    for (int i = thread; i < kKeys * (kDim / 4); i += kThreads) {
      const int key = i / (kDim / 4), column = i % (kDim / 4) * 4;
      float4 x = make_float4(0, 0, 0, 0);
      if (j0 + key < end && column < d) {
        x = *reinterpret_cast<const float4*>(from + (int64_t{j0 + key} * p.num_kv_heads + kv_head) * d +
                                             column);
      }
      const Halves a = Split(x.x, x.y), b = Split(x.z, x.w);
      *reinterpret_cast<uint2*>(to + key * kStride + column) = make_uint2(a.high, b.high);
      *reinterpret_cast<uint2*>(to + kHalf + key * kStride + column) = make_uint2(a.low, b.low);
    }
  };

  for (int j0 = begin; j0 < end; j0 += kKeys) {
    __syncthreads();
    load(p.k, j0, rows);
    load(p.v, j0, rows + 2 * kHalf);
    __syncthreads();
    if (j0 > warp_last || m0 >= rows_end) continue;  // nothing that this warp's rows see

    // Addresses of this lane's rows of the matrices: columns 0-7 and 8-15 of the high halves of K, then of
    // the low ones; keys 0-7 and 8-15 of the high halves of V, then of the low ones.
    uint32_t k_at =
        base + static_cast<uint32_t>(lane / 16 * kHalf + lane % 8 * kStride + lane / 8 % 2 * 8) * 2;
    uint32_t v_at = base + static_cast<uint32_t>((2 + lane / 16) * kHalf + lane % 16 * kStride) * 2;
    cuda::StaysInLoop(k_at);
    cuda::StaysInLoop(v_at);
    float score[kKeys / 8][4] = {};
#pragma unroll
    for (int s = 0; s < kDim / 16; ++s) {
      const uint4 from = q_low[s * 32];
      const uint32_t low[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
        uint32_t k[4];
        cuda::LoadMatrices(k_at + static_cast<uint32_t>(n * 8 * kStride + s * 16) * 2, k);
        Multiply(score[n], q_high[s], low, k);
      }
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int position = first + m0 + g + r * 8;
      float block_max = max[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int j = j0 + n * 8 + t * 2 + e;
          const bool seen = j <= position && (window == 0 || j > position - window);
          float& s = score[n][r * 2 + e];
          s = seen ? s * p.scale : -INFINITY;
          block_max = fmaxf(block_max, s);
        }
      }
      for (int offset = 1; offset < 4; offset *= 2) {
        block_max = fmaxf(block_max, __shfl_xor_sync(0xffffffffu, block_max, offset));
      }
      // Nothing seen so far leaves the maximum at -infinity: then every weight is 0, not NaN.
      const float from = block_max == -INFINITY ? 0.0f : block_max, shrink = expf(max[r] - from);
      max[r] = block_max;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& s = score[n][r * 2 + e];
          s = expf(s - from);
          sum += s;
        }
      }
      total[r] = fmaf(total[r], shrink, sum);  // of this lane's columns
#pragma unroll
      for (int c = 0; c < kDim / 8; ++c) {
        out[c][r * 2] *= shrink;
        out[c][r * 2 + 1] *= shrink;
      }
    }

#pragma unroll
    for (int s = 0; s < kKeys / 16; ++s) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&from)[4] = score[2 * s + i / 2];
        const Halves halves = Split(from[i % 2 * 2], from[i % 2 * 2 + 1]);
        high[i] = halves.high;
        low[i] = halves.low;
      }
#pragma unroll
      for (int c = 0; c < kDim / 8; ++c) {
        uint32_t v[4];
        cuda::LoadMatricesTransposed(v_at + static_cast<uint32_t>(s * 16 * kStride + c * 8) * 2, v);
        Multiply(out[c], high, low, v);
      }
    }
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int offset = 1; offset < 4; offset *= 2) total[r] += __shfl_xor_sync(0xffffffffu, total[r], offset);
    const int64_t m = m0 + g + r * 8;
    if (m >= p.m) continue;
#pragma unroll
    for (int c = 0; c < kDim / 8; ++c) {
      const int column = c * 8 + t * 2;
      if (column >= d) continue;
      *reinterpret_cast<float2*>(p.o + (m * p.num_heads + head) * d + column) =
          make_float2(out[c][r * 2] / total[r], out[c][r * 2 + 1] / total[r]);
    }
  }
}

template <int kDim, int kWarps>
absl::Status LaunchMma(const CudaParams& p, const cuda::Stream& stream) {
  return cuda::Launch("attention_f32_f32", attention_f32_f32_mma_sm80<kDim, kWarps>,
                      {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(p.m, kWarps * kWarpRows)),
                                    static_cast<unsigned>(p.num_heads)),
                       .block = dim3(kWarps * cuda::kWarp),
                       .shared_bytes = int64_t{4} * kKeysFor<kDim> * (kDim + kPad) * 2 +
                                       int64_t{kWarps} * (kDim / 16) * 32 * 16},
                      stream, p);
}

}  // namespace

absl::Status RunMma(const CudaParams& p, const cuda::Stream& stream) {
  // Few rows in all: smaller blocks reach more multiprocessors.
  const bool many = cuda::CeilDiv(p.m, 8 * kWarpRows) * p.num_heads >= 264;
  if (p.head_dim <= 64) return many ? LaunchMma<64, 8>(p, stream) : LaunchMma<64, 4>(p, stream);
  return many ? LaunchMma<128, 8>(p, stream) : LaunchMma<128, 4>(p, stream);
}

}  // namespace spikefold::kernels::attention_f32_f32
