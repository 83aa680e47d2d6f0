// matmul_f32_f32_bf16 on a GPU: Y = X W^T + bias for the linears of a site in one launch, W row-major [n, k]
// in bf16: what a float checkpoint usually stores, so that nothing is lost and half the bytes move.
// RunCuda     float32 sums on the CUDA cores. Exact as matmul_f32_f32_f32 with the same weights in float32.
//             Moves 2 bytes a weight; bound by them for few rows, by FMA for many. Targets sm_80 (few rows
//             overlap their predecessor's end on sm_90: their first weights are on their way by then).
// RunHopper   bf16 wgmma, float32 sums; x goes in as the nearest bf16 value of each element and, with
//             kExact, a second one of what that leaves: x to 2^-17, the products exact. kBf16 is what other
//             engines call bf16, x to 2^-9, in half the time. Targets sm_90a.
#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/cuda/simt_matmul.h"

namespace spikefold::kernels::matmul_f32_f32_bf16 {

absl::Status RunCuda(cuda::SimtParams params, const cuda::Stream& stream);
// Up to 8 rows that fit into a block's shared memory in float32, all of them or half: RunCuda() streams W
// past them then, once or twice, one row at nearly the rate of memory, eight at a third of it.
bool TakesFewRows(const cuda::SimtParams& params);

enum class Rows { kBf16 = 1, kExact = 2 };  // parts that x is split into
// Rows of x from which the tensor cores are faster, unless TakesFewRows().
inline constexpr int64_t kHopperRows = 2;
constexpr bool SupportsHopper(int64_t k) { return k % 8 == 0; }
constexpr size_t PartsBytes(int64_t m, int64_t k, Rows rows) {
  return static_cast<size_t>(m * k * static_cast<int64_t>(rows)) * sizeof(uint16_t);
}
// `parts` is scratch of PartsBytes() in device memory. No tail, no list of rows; SupportsHopper(k), sm_90.
absl::Status RunHopper(const cuda::SimtParams& params, Rows rows, uint16_t* parts,
                       const cuda::DeviceInfo& device, const cuda::Stream& stream,
                       const cuda::pingpong::Plan& tiles = {});

}  // namespace spikefold::kernels::matmul_f32_f32_bf16
