// hadamard_f32_f32 on a GPU, in place; the transform itself is hadamard_f32_f32.cuh, which other kernels
// fuse.
// Method    a block of threads a Hadamard block, in shared memory, in the CPU's order of additions.
// Requires  4 * block bytes of shared memory: blocks of up to 32,768, fewer where a block has less than
//           128 KiB.
// Exact     equal to the CPU's vector levels bit for bit, where values are finite.
// Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/numeric.h"

namespace spikefold::kernels::hadamard_f32_f32 {

inline constexpr int kMaxFactors = 4, kMaxOrder = 256;

// Floats of shared memory that a row of n values takes while it is transformed.
SF_HOST_DEVICE constexpr int64_t RowFloats(int64_t n) { return (n + 31) / 32 * 32; }

// Which matrices, as a kernel gets them.
struct CudaPlan {
  int num_factors = 0;  // 0: the identity, nothing below matters
  int order[kMaxFactors] = {};
  const float* table[kMaxFactors] = {};  // device: HadamardFactorTable(); the last factor has none
  bool paired[kMaxFactors] = {};         // IsPairedHadamard()
  int block = 1;                         // product of the orders
  const float* scale = nullptr;          // device [n]
};

// A plan and the device memory that it points to.
class CudaRotation {
 public:
  // Unimplemented: a block too large for shared memory.
  absl::Status Set(absl::Span<const int64_t> factors, absl::Span<const float> scale,
                   const cuda::Stream& stream);
  const CudaPlan& plan() const { return plan_; }

 private:
  CudaPlan plan_;
  cuda::DeviceMemory tables_, scale_;
};

struct CudaParams {
  int64_t m = 0, n = 0;
  CudaPlan plan;
  float* x = nullptr;  // device [m, n]
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::hadamard_f32_f32
