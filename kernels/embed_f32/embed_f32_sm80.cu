#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/embed_f32/embed_f32_cuda.h"

namespace spikefold::kernels::embed_f32 {
namespace {

constexpr int kThreads = 512;  // a row is a single trip to memory: many loads at once

__global__ void __launch_bounds__(kThreads) embed_f32_sm80(CudaParams p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t m = blockIdx.x, token = p.tokens[m];
  float* y = p.y + m * p.k;
  const auto write = [&](auto value) {
#pragma unroll 8
    for (int k = static_cast<int>(threadIdx.x); k < p.k; k += kThreads) y[k] = value(k) * p.scale;
  };
  if (p.table != nullptr) {
    const float* const row = p.table + token * p.k;
    write([&](int k) { return __ldg(row + k); });
  } else if (p.bf16_table != nullptr) {
    const uint16_t* const row = p.bf16_table + token * p.k;
    write([&](int k) { return __uint_as_float(static_cast<uint32_t>(__ldg(row + k)) << 16); });
  } else {
    const int8_t* const row = p.codes + token * p.code_stride;
    const float unit = __ldg(p.code_scale + token);
    write([&](int k) { return static_cast<float>(__ldg(row + k)) * unit; });
  }
  __syncthreads();
  for (int64_t c = threadIdx.x; c < p.num_kept; c += kThreads) {
    const unsigned bits = p.kept_w[c * p.kept_stride + token];
    y[p.kept[c]] = __uint_as_float(bits << 16) * p.scale;
  }
  __syncthreads();
  for (int64_t s = threadIdx.x; s < p.num_super; s += kThreads) {
    if (p.super_row[s] == token) y[p.super_column[p.super_slot[s]]] = p.super_value[s] * p.scale;
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  return cuda::Launch("embed_f32", embed_f32_sm80,
                      {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kThreads), .overlaps = true},
                      stream, p);
}

}  // namespace spikefold::kernels::embed_f32
