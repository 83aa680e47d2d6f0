#include <cuda_bf16.h>

#include "benchmarks/cuda_peers.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"

namespace spikefold::benchmarks {
namespace {

namespace cuda = kernels::cuda;
constexpr int kThreads = 256;

__device__ uint32_t Hash(uint64_t v) {
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(v ^ (v >> 31));
}

enum class Content { kBytes, kFp8, kBf16, kFloats };
template <Content content>
__global__ void FillKernel(void* to, int64_t count, float scale, uint64_t seed) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const uint32_t h = Hash(static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15ull + seed);
    const float unit = static_cast<float>(h >> 8) * 0x1p-24f;
    if constexpr (content == Content::kBytes) {
      const uint8_t byte = static_cast<uint8_t>(h);
      static_cast<uint8_t*>(to)[i] = byte == 0x80 ? 1 : byte;
    } else if constexpr (content == Content::kFp8) {
      const uint8_t byte = static_cast<uint8_t>(h);
      static_cast<uint8_t*>(to)[i] = (byte & 0x7f) == 0x7f ? 1 : byte;
    } else if constexpr (content == Content::kBf16) {
      static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16_rn(4 * unit - 2);
    } else {
      static_cast<float*>(to)[i] = scale * (0.5f + unit);
    }
  }
}

template <Content content>
absl::Status FillWith(void* to, int64_t count, float scale, uint64_t seed, const cuda::Stream& stream) {
  return cuda::Launch("fill", FillKernel<content>, {.grid = dim3(1024), .block = dim3(kThreads)}, stream, to,
                      count, scale, seed);
}

__global__ void __launch_bounds__(kThreads)
    RescaleKernel(const int32_t* sums, const float* x_scale, const float* w_scale, int64_t n, uint16_t* y) {
  const int64_t m = blockIdx.y, column = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * 4;
  if (column >= n) return;
  const int4 s = *reinterpret_cast<const int4*>(sums + m * n + column);
  const float4 w = *reinterpret_cast<const float4*>(w_scale + column);
  const float x = x_scale[m];
  __nv_bfloat162 out[2] = {
      __floats2bfloat162_rn(static_cast<float>(s.x) * x * w.x, static_cast<float>(s.y) * x * w.y),
      __floats2bfloat162_rn(static_cast<float>(s.z) * x * w.z, static_cast<float>(s.w) * x * w.w)};
  *reinterpret_cast<uint2*>(y + m * n + column) = *reinterpret_cast<const uint2*>(out);
}

}  // namespace

absl::Status Rescale(const int32_t* sums, const float* x_scale, const float* w_scale, int64_t m, int64_t n,
                     uint16_t* y, const cuda::Stream& stream) {
  const dim3 grid(static_cast<unsigned>(cuda::CeilDiv(n, 4 * kThreads)), static_cast<unsigned>(m));
  return cuda::Launch("rescale", RescaleKernel, {.grid = grid, .block = dim3(kThreads)}, stream, sums,
                      x_scale, w_scale, n, y);
}

absl::Status FillBytes(void* to, int64_t count, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kBytes>(to, count, 1, seed, stream);
}
absl::Status FillFp8(void* to, int64_t count, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kFp8>(to, count, 1, seed, stream);
}
absl::Status FillBf16(uint16_t* to, int64_t count, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kBf16>(to, count, 1, seed, stream);
}
absl::Status FillFloats(float* to, int64_t count, float scale, uint64_t seed, const cuda::Stream& stream) {
  return FillWith<Content::kFloats>(to, count, scale, seed, stream);
}

}  // namespace spikefold::benchmarks
