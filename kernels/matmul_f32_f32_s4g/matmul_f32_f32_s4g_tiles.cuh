// Tiles of 4-bit codes as operands of bf16 mma.sync.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace spikefold::kernels::matmul_f32_f32_s4g {

inline constexpr uint32_t kBf16Base = 0x43004300;  // 128 twice: bf16 has 7 bits behind the point

__device__ inline uint32_t Bits(__nv_bfloat162 v) { return *reinterpret_cast<const uint32_t*>(&v); }
__device__ inline __nv_bfloat162 Pair(uint32_t bits) {
  return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}

// x as two bf16 values: the nearest one, and the nearest one of what it leaves.
struct Halves {
  uint32_t high, low;
};
__device__ inline Halves Split(float2 x) {
  const __nv_bfloat162 high = __floats2bfloat162_rn(x.x, x.y);
  const float2 rounded = __bfloat1622float2(high);
  return {Bits(high), Bits(__floats2bfloat162_rn(x.x - rounded.x, x.y - rounded.y))};
}

// Operand j of a tile (columns 16 j to 16 j + 15): codes less their zero points, exact in bf16.
__device__ inline void Operand(const uint4& codes, int j, __nv_bfloat162 zero0, __nv_bfloat162 zero1,
                               uint32_t (&a)[4]) {
  const uint32_t word = j == 0 ? codes.x : j == 1 ? codes.y : j == 2 ? codes.z : codes.w;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 code = Pair((word >> (4 * i) & 0x000f000f) | kBf16Base);
    a[i] = Bits(__hsub2(code, i % 2 == 0 ? zero0 : zero1));
  }
}
__device__ inline __nv_bfloat162 ZeroPair(uint32_t zero) { return Pair(kBf16Base | zero | zero << 16); }

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
