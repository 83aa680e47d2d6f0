// gatedmulquant_s8r_f32: y = act(gate) * up, the site's rotation and the site's codes in one pass over the
// rows: gatedmul_f32_f32, hadamard_f32_f32 and quantize_s8r_f32 with their definitions, bit for bit.
// Method    a block a row, which stays in registers where nothing is rotated and no column kept, otherwise in
//           shared memory. Few rows that stay in registers: 8 blocks a row on sm_90.
// Requires  4 * k bytes of shared memory: Fits(). No spike threshold.
// Moves     9*k bytes a row (gate and up in, codes out), and 4*k if the floats are wanted.
// Targets   sm_80, sm_90.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_cuda.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"

namespace spikefold::kernels::gatedmulquant_s8r_f32 {

struct CudaParams {                       // device addresses
  gatedmul_f32_f32::Params gatedmul;      // of all rows; y null: floats are not wanted
  hadamard_f32_f32::CudaPlan rotation;    // num_factors 0: none
  const float* shift = nullptr;           // [k] taken off the rotated rows; null: nothing
  quantize_s8r_f32::CudaParams quantize;  // x is not read
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

// Few wide rows leave most multiprocessors idle: on sm_90 (RunCuda() asks) a cluster of blocks shares a row.
inline constexpr int64_t kSplits = 8, kMostSplitRows = 64, kLeastSplitColumns = 4096;
constexpr bool SplitsRows(const CudaParams& p) {
  return p.quantize.m <= kMostSplitRows && p.quantize.k >= kLeastSplitColumns &&
         p.rotation.num_factors == 0 && quantize_s8r_f32::Holds(p.quantize, quantize_s8r_f32::kMostThreads);
}
// Requires SplitsRows() and sm_90.
absl::Status RunSplit(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::gatedmulquant_s8r_f32
