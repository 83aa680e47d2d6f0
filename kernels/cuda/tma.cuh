// The bulk tensor copy engine: PTX behind C++ names. sm_90 and newer. Tensor maps come from tensor_map.h and
// reach a kernel as `const __grid_constant__ CUtensorMap`.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace spikefold::kernels::cuda {

__device__ inline void PrefetchMap(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}

// By one thread: the box at (column, row) to shared memory, aligned to 1024 under the 128-byte swizzle;
// `barrier` receives the bytes of the whole box, those beyond the tensor (zeros) too.
__device__ inline void LoadBox(uint32_t shared, const CUtensorMap& map, uint32_t barrier, int column,
                               int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, "
      "%3}], [%4];" ::"r"(shared),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}

// By one thread: bytes that lie one after the other, a multiple of 16; both addresses 16-byte aligned.
__device__ inline void LoadBytes(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
      "l"(global), "r"(bytes), "r"(barrier)
      : "memory");
}

// By one thread, once every writer has called FenceToCopyEngine() and a barrier has passed: the box to global
// memory; parts beyond the tensor are left out.
__device__ inline void StoreBox(const CUtensorMap& map, uint32_t shared, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
                   reinterpret_cast<uint64_t>(&map)),
               "r"(column), "r"(row), "r"(shared)
               : "memory");
}
__device__ inline void CommitStores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until all but the thread's last kLeft groups of stores have read shared memory; until all stores are in
// global memory.
template <int kLeft = 0>
__device__ inline void WaitStoresRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kLeft) : "memory");
}
__device__ inline void WaitStores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Ordinary stores to shared memory become visible to the copy engine and to wgmma.
__device__ inline void FenceToCopyEngine() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Four 8x8 matrices of 16-bit elements to shared memory: the inverse of LoadMatrices.
__device__ inline void StoreMatrices(uint32_t shared, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared), "r"(r0),
               "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

// Blocks of a cluster.
__device__ inline uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// A barrier of a cluster in two parts, by threads that need not be together. What a thread wrote to its
// block's shared memory before it arrived is seen by those that have waited. That memory alone:
// barrier.cluster.arrive.release waits until the whole GPU sees all that the thread wrote (MEMBAR.ALL.GPU).
__device__ inline void ClusterArrive() {
  asm volatile(
      "fence.release.sync_restrict::shared::cta.cluster;\n"
      "barrier.cluster.arrive.relaxed;" ::
          : "memory");
}
// Says only that the thread is there; of what it has read, once AwaitValue() has been called.
__device__ inline void ClusterArriveRelaxed() {
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
// The thread goes on when `value` is in its register: what it depends on has been read. An instruction that
// is as good as never executed waits for it.
__device__ inline void AwaitValue(uint32_t value) {
  asm volatile(
      "{\n"
      ".reg .pred is;\n"
      "setp.eq.u32 is, %0, 0x9e3779b9;\n"
      "@is nanosleep.u32 0;\n"
      "}" ::"r"(value)
      : "memory");
}
__device__ inline void ClusterWait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }
// 16 bytes at the same place of the shared memory of block `rank` of the cluster. Several may be under way.
__device__ inline int4 LoadRemote16(uint32_t shared, uint32_t rank) {
  int4 v;
  asm volatile(
      "{\n.reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.s32 {%0, %1, %2, %3}, [remote];\n}"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "r"(shared), "r"(rank)
      : "memory");
  return v;
}

}  // namespace spikefold::kernels::cuda
