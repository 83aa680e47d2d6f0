#include "kernels/cuda/digit_rows.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

struct InOrder {
  __device__ static void Load(const float* row, int first, int64_t k, int word, float (&v)[4]) {
    const int column = first + word * 4;
    if (k % 4 == 0) {
      if (column >= k) return;
      const float4 x = *reinterpret_cast<const float4*>(row + column);
      v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
      return;
    }
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      if (column + b < k) v[b] = row[column + b];
    }
  }
};
struct FewRows : cuda::digits::Digits<InOrder, false> {
  using Codes = cuda::stream::Codes8;
  static constexpr int kSteps = 3, kBlocks = 2;
  __device__ static void Add(const Codes::Step& codes, int chunk, const uint4& x, const float4& meta,
                             float (&acc)[4]) {
    int32_t sum[4] = {};
    Codes::Multiply(codes, chunk, x, sum);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      acc[e] = fmaf(static_cast<float>(sum[e]), e % 2 == 0 ? meta.x : meta.y, acc[e]);
    }
  }
};

}  // namespace

absl::Status RunCuda(const cuda::SimtParams& p, const cuda::Stream& stream) {
  if (p.rows == nullptr && cuda::stream::Fits<FewRows>(p)) {
    return cuda::stream::Run<FewRows>("matmul_f32_f32_s8c", p, stream);
  }
  return cuda::RunSimt<int8_t>("matmul_f32_f32_s8c", p, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
