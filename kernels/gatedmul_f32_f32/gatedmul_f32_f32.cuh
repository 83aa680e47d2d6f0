// One gated product: for this kernel and those that fuse it.
#pragma once

#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_cuda.h"

namespace spikefold::kernels::gatedmul_f32_f32 {

__device__ inline float Gated(Activation activation, float gate, float up) {
  float u = gate;
  if (activation == Activation::kGeluTanh) {
    u = 2 * 0.79788456080286535588f * (gate + 0.044715f * (gate * gate * gate));  // sqrt(2/pi)
  }
  return __fdividef(gate, 1 + __expf(-u)) * up;
}

__device__ inline float4 GatedFour(Activation activation, float4 gate, float4 up) {
  return make_float4(Gated(activation, gate.x, up.x), Gated(activation, gate.y, up.y),
                     Gated(activation, gate.z, up.z), Gated(activation, gate.w, up.w));
}
// Values i to i + 3 of all, which begin at 16 bytes.
__device__ inline float4 GatedFour(const Params& p, int64_t i) {
  return GatedFour(p.activation, *reinterpret_cast<const float4*>(p.gate + i),
                   *reinterpret_cast<const float4*>(p.up + i));
}

}  // namespace spikefold::kernels::gatedmul_f32_f32
