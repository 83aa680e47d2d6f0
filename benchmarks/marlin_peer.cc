#include "benchmarks/marlin_peer.h"

struct CUstream_st;  // cudaStream_t's
int marlin_cuda(const void* a, const void* b, void* c, void* scales, int m, int n, int k, void* workspace,
                int group, int device, CUstream_st* stream, int thread_k, int thread_n, int multiprocessors,
                int max_parallel);

namespace spikefold::benchmarks {

bool HasMarlin() { return true; }

absl::Status RunMarlin(const void* x, const void* codes, const void* scales, void* y, int64_t m, int64_t n,
                       int64_t k, int32_t* locks, const kernels::cuda::Stream& stream) {
  // What it chooses for up to 16 rows, tiles of 128 x 128, ends in an illegal instruction on an H200.
  constexpr int kGroup = 128, kDevice = 0, kTileK = 64, kTileN = 256, kChoose = -1, kParallel = 16;
  const int error = marlin_cuda(
      x, codes, y, const_cast<void*>(scales), static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
      locks, kGroup, kDevice, static_cast<CUstream_st*>(stream.handle()), kTileK, kTileN, kChoose, kParallel);
  return error == 0 ? absl::OkStatus() : absl::UnimplementedError("marlin: no kernel for this shape");
}

}  // namespace spikefold::benchmarks
