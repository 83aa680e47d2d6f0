// matmul_f32_s8r_s8c on a GPU: the linears of a site in one launch.
//   Y[m,n] = float(sum_k xq[m,k]*wq[n,k]) * x_scale[m] * w_scale[n] + sum_c kept_x[m,c]*kept_w[c,n] + bias[n]
// Layout    codes row-major, rows padded with zeros to multiples of 16 bytes (RowBytes); kept columns of W
//           transposed, so that neighbouring channels load together.
// Method    mma.sync m16n8k32 on tiles of 64x64 or 128x128 outputs, K in steps of 128 bytes through a ring of
//           three stages filled by cp.async; 16-byte chunks are swizzled so that ldmatrix meets no conflict.
//           One row of 2048 columns or more without kept ones: dp4a (kernels/cuda/row_stream.cuh).
// Exact     the sums are integers, and what follows is done in the CPU's order with its roundings: y is the
//           CPU's bit for bit (results below 2^-126 aside). Super weights are added by AddSuperWeights.
// Targets   sm_80 (run on sm_90 too); sm_90a for 9 to 64 rows: wgmma with W on its left, kept columns in the
//           CPU's order; sm_90a for more, and for 33 to 64 rows as a rule where columns are kept or channels
//           are many (cuda::pingpong::BeatsFewRows): wgmma fed by the copy engine, sums turned into outputs
//           in registers, same roundings, same bits but for kept columns: bf16 wgmma adds them, in an order
//           of its own, within TailBound() of |sum * scales| + sum_c |kept_x * kept_w|.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/few_rows_plan.h"
#include "kernels/cuda/outlier_tail_cuda.h"
#include "kernels/cuda/pingpong_plan.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::matmul_f32_s8r_s8c {

constexpr int64_t RowBytes(int64_t k) { return (k + 15) / 16 * 16; }
// Columns of kept_rows: the kept ones, then zeros.
inline constexpr int64_t kKeptStep = 64;
constexpr int64_t KeptColumns(int64_t num_kept) { return (num_kept + kKeptStep - 1) / kKeptStep * kKeptStep; }

struct CudaParams {  // device addresses
  int64_t m = 0, k = 0;
  const int8_t* x = nullptr;       // [m, RowBytes(k)]
  const float* x_scale = nullptr;  // [m]
  int64_t num_kept = 0;
  const float* kept_x = nullptr;        // [m, num_kept]
  const uint16_t* kept_rows = nullptr;  // [m, KeptColumns(num_kept)] the same in bf16, for sm_90a
  cuda::LinearGroup linears;            // w [n, w_stride] codes, w_stride = RowBytes(k)
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);  // sm_80
// wgmma on any number of rows; on sm_90 only. With kept columns it reads kept_rows of x and of the linears.
absl::Status RunHopper(const CudaParams& params, const cuda::pingpong::Plan& plan,
                       const cuda::DeviceInfo& device, const cuda::Stream& stream);
// Up to cuda::few::kMaxRows rows on sm_90, if FitsFewHopper() (kept columns need kept_rows, as above, and are
// at most 128).
bool FitsFewHopper(const CudaParams& params, const cuda::DeviceInfo& device);
absl::Status RunFewHopper(const CudaParams& params, const cuda::few::Plan& plan,
                          const cuda::DeviceInfo& device, const cuda::Stream& stream);
// Whichever is faster on this device.
inline constexpr int64_t kFewHopperRows = 9, kHopperRows = 33;
inline absl::Status RunCuda(const CudaParams& params, const cuda::DeviceInfo& device,
                            const cuda::Stream& stream) {
  const bool tiles =
      device.sm == 90 && params.m >= kHopperRows && (params.num_kept == 0 || params.kept_rows != nullptr);
  const int64_t steps = (RowBytes(params.k) + 127) / 128;
  const bool only_tiles =
      tiles && cuda::pingpong::BeatsFewRows(params.m, params.linears, steps, device.num_sms);
  if (params.m >= kFewHopperRows && !only_tiles && FitsFewHopper(params, device)) {
    return RunFewHopper(params, {}, device, stream);
  }
  return tiles ? RunHopper(params, {}, device, stream) : RunCuda(params, stream);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_s8c
