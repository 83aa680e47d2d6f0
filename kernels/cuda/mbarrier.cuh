// Barriers in shared memory, which threads and the copy engine complete: PTX behind C++ names. sm_90 and
// newer. A barrier has a phase that flips each time its arrivals and its expected bytes are complete. Who
// waits names the parity of the phase that must have ended: 0 first, then 1, 0, ... A fresh barrier counts as
// having ended phase 1.
#pragma once

#include <cstdint>

#include "kernels/cuda/ldst.cuh"

namespace spikefold::kernels::cuda {

// By one thread, before a barrier of the block and, where the copy engine or other blocks complete it, before
// FenceBarrierInit().
__device__ inline void InitBarrier(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes fresh barriers visible to the copy engine and to the cluster.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// As many arrivals at once.
__device__ inline void Arrive(uint32_t barrier, uint32_t times) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(times) : "memory");
}
// Arrives, and says how many bytes the copy engine will bring before the phase ends.
__device__ inline void ArriveExpecting(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// The thread arrives when its cp.async copies so far are complete: one of the barrier's arrivals.
__device__ inline void ArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ inline bool TestBarrier(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}
// The wait of a loop that is short of registers.
__device__ inline void WaitBarrier(uint32_t barrier, uint32_t parity) {
  while (!TestBarrier(barrier, parity)) {
  }
}
// A wait that lasts seconds is a bug of the schedule: the kernel stops with an error instead of hanging the
// GPU. If one side of a ring waits so, the other side's bugs end here too.
__device__ inline void WaitBarrierGuarded(uint32_t barrier, uint32_t parity) {
  constexpr uint32_t kMaxTries = 1u << 22;  // each try waits some microseconds itself
  for (uint32_t tries = 0; !TestBarrier(barrier, parity); ++tries) {
    if (tries == kMaxTries) __trap();
  }
}

// The same, where blocks of the cluster wrote what is waited for, by StoreRemote16().
__device__ inline void WaitClusterBarrierGuarded(uint32_t barrier, uint32_t parity) {
  constexpr uint32_t kMaxTries = 1u << 22;
  for (uint32_t tries = 0;; ++tries) {
    uint32_t done;
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
    if (done != 0) return;
    if (tries == kMaxTries) __trap();
  }
}
// Stores to the same place of the shared memory of block `rank` of the cluster, whose barrier at the same
// place as `barrier` receives the 16 bytes.
__device__ inline void StoreRemote16(uint32_t shared, uint32_t rank, float4 v, uint32_t barrier) {
  asm volatile(
      "{\n"
      ".reg .b32 remote, remote_barrier;\n"
      "mapa.shared::cluster.u32 remote, %0, %2;\n"
      "mapa.shared::cluster.u32 remote_barrier, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [remote], {%3, %4, %5, %6}, "
      "[remote_barrier];\n"
      "}" ::"r"(shared),
      "r"(barrier), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
}

// Barrier `id` (1 to 15) of the block among `threads` threads, a multiple of 32.
template <int id>
__device__ inline void NamedBarrier(int threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(id), "r"(threads) : "memory");
}
__device__ inline void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// The same by threads that do not wait for the others.
__device__ inline void NamedBarrierArrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace spikefold::kernels::cuda
