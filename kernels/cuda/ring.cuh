// A ring of stages in shared memory that one warp fills through the copy engine and others use. sm_90 and
// newer. A stage has two barriers: full once all has come that was announced, empty once every reader has
// given it back.
#pragma once

#include <cstdint>

#include "kernels/cuda/mbarrier.cuh"

namespace spikefold::kernels::cuda {

struct Ring {
  uint32_t barriers;  // in shared memory, Bytes(stages): full ones, then empty ones
  int stages;

  __host__ __device__ static constexpr int Bytes(int stages) { return 2 * stages * 8; }
  __device__ uint32_t Full(int stage) const { return barriers + static_cast<uint32_t>(stage) * 8; }
  __device__ uint32_t Empty(int stage) const { return barriers + static_cast<uint32_t>(stages + stage) * 8; }
  __device__ uint32_t End() const { return barriers + static_cast<uint32_t>(Bytes(stages)); }
  // By one thread, before FenceBarrierInit(). `fillers`: arrivals that a full stage takes beside its bytes.
  __device__ void Init(uint32_t fillers, uint32_t readers) const {
    for (int stage = 0; stage < stages; ++stage) {
      InitBarrier(Full(stage), fillers);
      InitBarrier(Empty(stage), readers);
    }
  }
};

// Where a thread stands in a ring. Who reads waits until Full(stage) has ended `phase`, who fills until
// Empty(stage) has ended the other one, which fresh barriers have.
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void Next(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
  __device__ void Skip(int steps, int stages) {
    const int to = stage + steps;
    stage = to % stages;
    phase ^= static_cast<uint32_t>(to / stages % 2);
  }
};

// Fills a ring whose stages have taken the first steps already: load(t, stage) starts the copies of step t.
// Its place is a round behind those steps, so it waits for that round's phase itself.
template <typename Load>
__device__ inline void Refill(const Ring& ring, int steps, Load load) {
  RingPlace at;
  for (int t = min(steps, ring.stages); t < steps; ++t) {
    WaitBarrierGuarded(ring.Empty(at.stage), at.phase);
    load(t, at.stage);
    at.Next(ring.stages);
  }
}

}  // namespace spikefold::kernels::cuda
