#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/embed_f32/embed_f32_cuda.h"

namespace spikefold::kernels::embed_f32 {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) embed_f32_sm80(CudaParams p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t m = blockIdx.x, token = p.tokens[m];
  float* y = p.y + m * p.k;
  for (int64_t k = threadIdx.x; k < p.k; k += kThreads) {
    float value = 0;
    if (p.table != nullptr) {
      value = p.table[token * p.k + k];
    } else if (p.bf16_table != nullptr) {
      value = __uint_as_float(static_cast<uint32_t>(p.bf16_table[token * p.k + k]) << 16);
    } else {
      value = static_cast<float>(p.codes[token * p.code_stride + k]) * p.code_scale[token];
    }
    y[k] = value * p.scale;
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
