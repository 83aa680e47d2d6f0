// What every quantized matmul adds after its sum, on a GPU (kernels/outlier_tail.h says what and in which
// order), and the linears of one site that share a launch.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"

namespace spikefold::kernels::cuda {

inline constexpr int kMaxLinears = 4;

// Weights of one linear in device memory. w is codes [n, w_stride] or floats [n, k].
struct Linear {
  int64_t n = 0;
  const void* w = nullptr;
  int64_t w_stride = 0;              // elements
  const float* w_scale = nullptr;    // [n]; of codes. [n, ceil(k / group)] with groups
  const uint8_t* w_zero = nullptr;   // matmul_f32_f32_s4g only, or null
  const float* w_unit = nullptr;     // [n], matmul_f32_f32_s4g only
  int64_t group = 0;                 // columns that share a scale, a multiple of 16; 0: one scale a channel
  const uint16_t* kept_w = nullptr;  // [r, kept_stride] bf16; null: this linear keeps no column
  int64_t kept_stride = 0;
  const uint16_t* kept_rows = nullptr;  // the same [n, columns padded to 64], where a kernel asks for it
  const float* bias = nullptr;          // [n] or null
  float* y = nullptr;                   // [m, n]
  int32_t* sums = nullptr;              // [m, n] or null: the integer sums, for tests and parity checks
};
struct LinearGroup {
  int count = 0;
  Linear linear[kMaxLinears];
};

struct SuperParams {  // device addresses
  int64_t m = 0, n = 0;
  int64_t num_super = 0, x_stride = 0;
  const float* x = nullptr;       // [m, x_stride]
  const int32_t* slot = nullptr;  // [num_super]
  const int32_t* row = nullptr;   // [num_super]
  const float* value = nullptr;   // [num_super]
  float* y = nullptr;             // [m, n], added to in list order
};
absl::Status AddSuperWeights(const SuperParams& params, const Stream& stream);

}  // namespace spikefold::kernels::cuda
