// Loads, stores and asynchronous copies: PTX behind C++ names. sm_80 and newer.
#pragma once

#include <cstdint>

namespace spikefold::kernels::cuda {

// The address of shared memory as PTX wants it.
__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory, past L1. With `valid` false the 16 bytes become zero and nothing is
// read. Both addresses 16-byte aligned. Belongs to the calling thread's open group.
__device__ inline void CopyAsync16(uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}
// The same with 4 bytes.
__device__ inline void CopyAsync4(uint32_t shared, const void* global, bool valid) {
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(bytes)
               : "memory");
}
// Closes the thread's group of copies.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of the thread's groups are under way. A barrier makes them visible to others.
template <int kPending>
__device__ inline void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements: lane i gives the address of row i % 8 of matrix i / 8 (16 bytes,
// aligned); register j of lane i receives elements 2(i % 4), 2(i % 4) + 1 of row i / 4 of matrix j. With
// 8-bit codes: bytes 4(i % 4) to 4(i % 4) + 3.
__device__ inline void LoadMatrices(uint32_t shared, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// The same, each matrix transposed: lane i receives rows 2(i % 4), 2(i % 4) + 1 of column i / 4.
__device__ inline void LoadMatricesTransposed(uint32_t shared, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// The compiler does not move what is computed from `value` out of the loop around: a hundred addresses that
// differ by constants would take a register each.
__device__ inline void StaysInLoop(uint32_t& value) { asm volatile("" : "+r"(value)); }

// The compiler moves no memory access across: keeps loads near their use where registers are short.
__device__ inline void CompilerFence() { asm volatile("" ::: "memory"); }

// Data that other warps read too, which an overlapping kernel before may have written. Issued where it is
// written, as LoadStreaming16 is.
__device__ inline uint4 LoadCached16(const void* global) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

// Weights that are read once: not kept in L1.
__device__ inline uint4 LoadStreaming16(const void* global) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
}

// Asks for the line around an address of global memory: a later load finds it in L2.
__device__ inline void PrefetchLine(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global) : "memory");
}
inline constexpr int kLineBytes = 128;

}  // namespace spikefold::kernels::cuda
