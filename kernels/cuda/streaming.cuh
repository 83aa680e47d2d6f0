// What a loop is made of that streams codes through shared memory to the tensor cores: PTX behind C++ names.
// sm_80 and newer. Shared memory goes by its 32-bit address here: in a cluster that of a pointer is made anew
// at each use, from the block's rank.
#pragma once

#include <cstdint>

namespace spikefold::kernels::cuda {

// 16 bytes of weights from global to shared memory, past L1; the rest of their cache line is wanted next.
// Both addresses 16-byte aligned. Belongs to the calling thread's open group (ldst.cuh).
__device__ inline void CopyWeights16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

__device__ inline uint4 LoadShared16(uint32_t shared) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(shared));
  return v;
}
__device__ inline float4 LoadSharedFloats(uint32_t shared) {
  const uint4 v = LoadShared16(shared);
  return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}
__device__ inline void StoreShared16(uint32_t shared, float4 v) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(shared), "f"(v.x), "f"(v.y), "f"(v.z),
               "f"(v.w)
               : "memory");
}
__device__ inline float2 LoadShared8(uint32_t shared) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(shared));
  return v;
}
__device__ inline uint32_t LoadShared2(uint32_t shared) {
  uint16_t v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(shared));
  return v;
}

// d = c + a * b of m16n8k16 in f16 with float32 sums, operands as MmaF16's (mma.cuh). Subnormal operands are
// multiplied exactly.
__device__ inline void MmaF16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              const float (&c)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]),
        "f"(c[3]));
}

}  // namespace spikefold::kernels::cuda
