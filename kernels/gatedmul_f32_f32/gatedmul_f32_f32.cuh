// One gated product: for this kernel and those that fuse it.
#pragma once

#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_cuda.h"

namespace spikefold::kernels::gatedmul_f32_f32 {

__device__ inline float Gated(Activation activation, float gate, float up) {
  float u = gate;
  if (activation == Activation::kGeluTanh) {
    u = 2 * 0.79788456080286535588f * (gate + 0.044715f * (gate * gate * gate));  // sqrt(2/pi)
  }
  return __fdividef(gate, 1 + expf(-u)) *
         up;  // to 2 units in the last place; 0 for what is below 2^-126 of gate
}

// Values i to i + 3 of all, which begin at 16 bytes.
__device__ inline float4 GatedFour(const Params& p, int64_t i) {
  const float4 gate = *reinterpret_cast<const float4*>(p.gate + i);
  const float4 up = *reinterpret_cast<const float4*>(p.up + i);
  return make_float4(Gated(p.activation, gate.x, up.x), Gated(p.activation, gate.y, up.y),
                     Gated(p.activation, gate.z, up.z), Gated(p.activation, gate.w, up.w));
}

}  // namespace spikefold::kernels::gatedmul_f32_f32
