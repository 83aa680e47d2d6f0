// embed_f32: y[i, :] = scale * table[tokens[i], :] on a GPU, the table in float32, bf16 or codes of 8 bits
// with kept columns and super weights put back. (The CPU backend reads its packed tables itself.) Exact bit
// for bit the CPU's. Targets   sm_80.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::embed_f32 {

struct CudaParams {  // device addresses
  int64_t m = 0, k = 0;
  const int32_t* tokens = nullptr;  // [m]
  float scale = 1;
  const float* table = nullptr;  // [n, k]; null: one of the two that follow
  const uint16_t* bf16_table = nullptr;
  const int8_t* codes = nullptr;  // [n, code_stride]
  int64_t code_stride = 0;
  const float* code_scale = nullptr;  // [n]
  int64_t num_kept = 0, kept_stride = 0;
  const int32_t* kept = nullptr;     // [num_kept] columns
  const uint16_t* kept_w = nullptr;  // [num_kept, kept_stride] bf16
  int64_t num_super = 0;
  const int32_t* super_column = nullptr;  // [form's super columns]
  const int32_t* super_slot = nullptr;    // [num_super] index into super_column
  const int32_t* super_row = nullptr;     // [num_super]
  const float* super_value = nullptr;     // [num_super]
  float* y = nullptr;                     // [m, k]
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

}  // namespace spikefold::kernels::embed_f32
