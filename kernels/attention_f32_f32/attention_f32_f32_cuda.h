// attention_f32_f32 on a GPU: causal (optionally sliding-window) grouped-query attention over a float cache
// in device memory, float32 or as exact as it.
// Method    key blocks lie at absolute cache positions and a masked key adds exactly 0, so a row's result
//           does not depend on the rows beside it in a call of either kernel. Few rows: a block of threads
//           takes 32 query rows of a head through blocks of 32 keys on the CUDA cores. From 16 rows on, and
//           head_dim a multiple of 16 up to 128: tensor cores, on values split into two bf16 halves. RunF16,
//           for callers whose model rounds more coarsely anyway: one product instead of three, on operands
//           of 11 bits under powers of two (a query row's, and that of a tile of 128 keys or values; 64 with
//           head_dim above 128).
// Exact     to float32 rounding; 2^-17 of each product's size on the tensor cores; RunF16 2^-10 of a score's
//           terms, and 2^-11 of weights and values; values 2^28 times smaller than the largest of their tile
//           lose bits.
// Requires  head_dim <= 256, a multiple of 4. RunF16: magnitudes up to 2^60.
// Targets   sm_80; RunF16 sm_90a.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::attention_f32_f32 {

struct CudaParams {  // device addresses
  int64_t m = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  const float* q = nullptr;  // [m, num_heads, head_dim]
  const float* k = nullptr;  // [positions, num_kv_heads, head_dim] holding first + m rows
  const float* v = nullptr;  // as k
  int64_t first = 0;         // cache position of query row 0
  float scale = 1;
  int64_t window = 0;  // 0: all
  float* o = nullptr;  // [m, num_heads, head_dim]
};
// On the tensor cores from so many rows on, where head_dim allows.
inline constexpr int64_t kMmaRows = 16;
absl::Status RunMma(const CudaParams& params, const cuda::Stream& stream);
// Unimplemented: a head_dim without a kernel.
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

// Unimplemented: a head_dim without a kernel.
absl::Status CheckHeadDim(const CudaParams& params);

// The softmax mass that each position receives from all rows: mass [num_heads, first + m] in device memory,
// added up in float64 in the order of rows; o and v are not used. `state`: device memory of MassStateBytes(),
// overwritten. Unimplemented as RunCuda.
int64_t MassStateBytes(const CudaParams& params);
absl::Status RunMass(const CudaParams& params, void* state, double* mass, const cuda::Stream& stream);

// In f16. Below so many rows the f16 copies of the keys, made anew in each call, are not worth their time.
inline constexpr int64_t kF16Rows = 64;
bool SupportsF16(const CudaParams& params, const cuda::DeviceInfo& device);
// Of the copies of up to `positions` keys and values.
int64_t F16Bytes(int64_t positions, int64_t num_kv_heads, int64_t head_dim);
// Where SupportsF16. `memory`: device memory of F16Bytes(first + m, ...), aligned to 128, overwritten.
absl::Status RunF16(const CudaParams& params, void* memory, const cuda::Stream& stream);

}  // namespace spikefold::kernels::attention_f32_f32
