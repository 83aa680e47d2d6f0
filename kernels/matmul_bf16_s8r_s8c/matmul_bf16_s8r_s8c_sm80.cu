// Design: kernels/cuda/few_rows_s8.cuh; W goes from memory to mma.sync registers. Any M, in parts of 32 rows.
#include <cuda_bf16.h>

#include "kernels/cuda/few_rows_s8.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c_few.h"

namespace spikefold::kernels::matmul_bf16_s8r_s8c {
namespace {

// Products of 8 kept columns of one output.
__device__ float AddKept(float y, const uint4& x, const uint4& w) {
  const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    y = fmaf(__uint_as_float(xs[i] << 16), __uint_as_float(ws[i] << 16), y);
    y = fmaf(__uint_as_float(xs[i] & 0xffff0000u), __uint_as_float(ws[i] & 0xffff0000u), y);
  }
  return y;
}

template <int kTiles, int kBlocks>
__global__ void __launch_bounds__(cuda::kFewWarps* cuda::kWarp)
    matmul_bf16_s8r_s8c_sm80(const __grid_constant__ Params p) {
  extern __shared__ int32_t partial[];
  const cuda::FewRowsOperands operands = {.m = p.m, .n = p.n, .row_bytes = p.k, .x = p.x, .w = p.w};
  const int64_t m0 = static_cast<int64_t>(blockIdx.y) * 8 * kTiles,
                n0 = static_cast<int64_t>(blockIdx.x) * cuda::kFewChannels * kBlocks;
  cuda::FewRowsSums<kTiles, kBlocks>(operands, m0, n0, partial, [&](int64_t m, int64_t n, int32_t sum) {
    float y = static_cast<float>(sum) * p.x_scale[m] * p.w_scale[n] + (p.bias == nullptr ? 0.0f : p.bias[n]);
#pragma unroll 1
    for (int64_t c = 0; c < p.num_kept; c += 8) {
      y = AddKept(y, *reinterpret_cast<const uint4*>(p.kept_x + m * p.num_kept + c),
                  *reinterpret_cast<const uint4*>(p.kept_w + n * p.num_kept + c));
    }
    reinterpret_cast<__nv_bfloat16*>(p.y)[m * p.n + n] = __float2bfloat16_rn(y);
  });
}

template <int kTiles, int kBlocks>
absl::Status LaunchFew(const Params& p, const cuda::Stream& stream) {
  const dim3 grid(static_cast<unsigned>(cuda::CeilDiv(p.n, cuda::kFewChannels * kBlocks)),
                  static_cast<unsigned>(cuda::CeilDiv(p.m, 8 * kTiles)));
  return cuda::Launch("matmul_bf16_s8r_s8c", matmul_bf16_s8r_s8c_sm80<kTiles, kBlocks>,
                      {.grid = grid,
                       .block = dim3(cuda::kFewWarps * cuda::kWarp),
                       .shared_bytes = int64_t{sizeof(int32_t)} * cuda::kFewPartials<kTiles, kBlocks>,
                       .overlaps = true},
                      stream, p);
}

}  // namespace

// Fewer channels a block make more blocks, which counts more than reading x less often.
absl::Status RunFew(const Params& p, const cuda::Stream& stream) {
  if (p.m <= 8) return LaunchFew<1, 1>(p, stream);
  if (p.m <= 16) return LaunchFew<2, 1>(p, stream);
  if (p.m <= 32) return LaunchFew<4, 1>(p, stream);
  return LaunchFew<8, 1>(p, stream);
}

}  // namespace spikefold::kernels::matmul_bf16_s8r_s8c
