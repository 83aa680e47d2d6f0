// Design: kernels/cuda/pingpong_tiles.cuh. A pass before it writes x as one or two bf16 matrices, one below
// the other.
#include <cuda_bf16.h>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pingpong_tiles.cuh"
#include "kernels/matmul_f32_f32_bf16/matmul_f32_f32_bf16_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_bf16 {
namespace {

constexpr char kName[] = "matmul_f32_f32_bf16";

// Four neighbouring elements a thread.
constexpr int kSplitThreads = 256;
__global__ void __launch_bounds__(kSplitThreads)
    SplitRows(const float* x, int64_t count, bool second, uint16_t* parts) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kSplitThreads + threadIdx.x) * 4;
  if (at >= count) return;
  const float4 v = *reinterpret_cast<const float4*>(x + at);
  const __nv_bfloat162 first[2] = {__floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w)};
  *reinterpret_cast<uint2*>(parts + at) = *reinterpret_cast<const uint2*>(first);
  if (!second) return;
  const float2 a = __bfloat1622float2(first[0]), b = __bfloat1622float2(first[1]);
  const __nv_bfloat162 rest[2] = {__floats2bfloat162_rn(v.x - a.x, v.y - a.y),
                                  __floats2bfloat162_rn(v.z - b.x, v.w - b.y)};
  *reinterpret_cast<uint2*>(parts + count + at) = *reinterpret_cast<const uint2*>(rest);
}

}  // namespace

absl::Status RunHopper(const cuda::SimtParams& p, Rows rows, uint16_t* parts, const cuda::DeviceInfo& device,
                       const cuda::Stream& stream, const cuda::pingpong::Plan& tiles) {
  if (p.m == 0) return absl::OkStatus();
  const int64_t count = p.m * p.k;  // a multiple of 8
  SF_RETURN_IF_ERROR(
      cuda::Launch(kName, SplitRows,
                   {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(count, kSplitThreads * 4))),
                    .block = dim3(kSplitThreads)},
                   stream, p.x, count, rows == Rows::kExact, parts));
  return cuda::pingpong::Run<cuda::pingpong::Type::kBf16, float>({.name = kName,
                                                                  .m = p.m,
                                                                  .row_bytes = 2 * p.k,
                                                                  .parts = static_cast<int64_t>(rows),
                                                                  .x = parts,
                                                                  .linears = p.linears},
                                                                 tiles, device, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_bf16
