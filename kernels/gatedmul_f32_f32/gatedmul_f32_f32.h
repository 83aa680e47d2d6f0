// gatedmul_f32_f32: y = act(gate) * up, act = SiLU or GELU (tanh form). Vectorised exp/tanh within 4 ulp of
// the double value's rounding.
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
absl::Status Reference(const Params& params);
absl::Status Run(const Params& params, ThreadPool& pool);

}  // namespace spikefold::kernels::gatedmul_f32_f32
