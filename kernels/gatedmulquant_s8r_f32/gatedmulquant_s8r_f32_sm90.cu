// A row in the registers of a cluster: each block tells the others its largest value.
#include <algorithm>
#include <bit>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mbarrier.cuh"
#include "kernels/cuda/tma.cuh"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32.cuh"
#include "kernels/gatedmulquant_s8r_f32/gatedmulquant_s8r_f32_cuda.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::gatedmulquant_s8r_f32 {
namespace {

namespace quantize = quantize_s8r_f32;

__global__ void __launch_bounds__(quantize::kMostThreads)
    gatedmulquant_s8r_f32_sm90(const __grid_constant__ CudaParams p) {
  __shared__ float4 sizes[kSplits];  // of all blocks of the cluster, four times each
  __shared__ uint64_t barrier_memory;
  const uint32_t barrier = cuda::SharedAddress(&barrier_memory);
  const int rank = static_cast<int>(blockIdx.y);
  const bool exchanges = p.quantize.static_scale == 0;
  cuda::LetNextStart();
  if (exchanges) {
    if (threadIdx.x == 0) {
      cuda::InitBarrier(barrier, 1);
      cuda::FenceBarrierInit();
      cuda::ArriveExpecting(barrier, sizeof(sizes));
    }
    __syncwarp();
    cuda::ClusterArriveRelaxed();
  }
  cuda::WaitForInputs();
  const int64_t at = blockIdx.x * p.quantize.k;
  const int first = 4 * static_cast<int>(threadIdx.x + rank * blockDim.x);
  float4 v[1] = {};
  if (first < p.quantize.k) v[0] = gatedmul_f32_f32::GatedFour(p.gatedmul, at + first);
  const auto reduce = [&](float size) {
    size = cuda::BlockReduce(size, cuda::Max());
    cuda::ClusterWait();  // the others' barriers are there
    if (threadIdx.x < kSplits) {
      cuda::StoreRemote16(cuda::SharedAddress(sizes + rank), threadIdx.x, make_float4(size, size, size, size),
                          barrier);
    }
    cuda::WaitClusterBarrierGuarded(barrier, 0);
    for (const float4& other : sizes) size = fmaxf(size, other.x);
    return size;
  };
  quantize::QuantizeHeldRow(p.quantize, blockIdx.x, p.shift, v, p.gatedmul.y, first, reduce);
}

}  // namespace

// What one block could hold in 8 fours a thread, 8 blocks hold in one.
static_assert(kSplits >= quantize::kMostPieces);

absl::Status RunSplit(const CudaParams& p, const cuda::Stream& stream) {
  const auto fours = static_cast<uint64_t>(cuda::CeilDiv(p.quantize.q_stride, 4 * kSplits));
  const uint64_t threads = std::clamp<uint64_t>(std::bit_ceil(fours), 128, quantize::kMostThreads);
  return cuda::Launch("gatedmulquant_s8r_f32", gatedmulquant_s8r_f32_sm90,
                      {.grid = dim3(static_cast<unsigned>(p.quantize.m), static_cast<unsigned>(kSplits)),
                       .block = dim3(static_cast<unsigned>(threads)),
                       .overlaps = true,
                       .cluster_y = static_cast<unsigned>(kSplits)},
                      stream, p);
}

}  // namespace spikefold::kernels::gatedmulquant_s8r_f32
