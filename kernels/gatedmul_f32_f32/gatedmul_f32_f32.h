// gatedmul_f32_f32: y = act(gate) * up.
//   SiLU       act(g) = g / (1 + exp(-g))
//   GELU tanh  act(g) = g/2 * (1 + tanh(u)) = g / (1 + exp(-2u)),  u = sqrt(2/pi) * (g + 0.044715*g^3)
// D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units" (2016), sections 2 and 4 (both forms).
//
// Requires  any count >= 1; no alignment beyond float; y may be gate or up.
// Moves     12*count bytes; bound by memory for large counts, by exp in cache.
// Exact     within 4 ulp of the reference (u is carried in two floats, so the far negative tail keeps its
//           digits); results below 2^-126 within 2^-149 * (1 + |up|). An element does not depend on others.
// Edges     |gate| up to 1e30 and |gate * up| below 2^127; NaN stays NaN.
// Targets   AVX-512, AVX2, plain C++.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "formats/base/thread_pool.h"

namespace spikefold::kernels::gatedmul_f32_f32 {

enum class Activation { kSilu, kGeluTanh };
struct Params {
  int64_t count = 0;
  Activation activation = Activation::kSilu;
  const float* gate = nullptr;  // [count]
  const float* up = nullptr;    // [count]
  float* y = nullptr;           // [count]; may alias gate or up
};
// InvalidArgument: an empty shape or a missing buffer.
absl::Status Supports(const Params& params);
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::gatedmul_f32_f32
