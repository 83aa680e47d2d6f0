#include <cuda_bf16.h>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/numeric.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"

namespace spikefold::kernels::quantize_s8r_f32 {
namespace {

constexpr int kThreads = 256;

__device__ bool IsKept(const CudaParams& p, int64_t k) { return p.is_kept != nullptr && p.is_kept[k] != 0; }

// Largest magnitude of the row's columns that are not kept.
__device__ float RowMax(const CudaParams& p, const float* x) {
  float amax = 0;
  for (int64_t k = threadIdx.x; k < p.k; k += kThreads) {
    if (!IsKept(p, k)) amax = fmaxf(amax, fabsf(x[k]));
  }
  return cuda::BlockReduce(amax, cuda::Max());
}

__global__ void __launch_bounds__(kThreads) quantize_s8r_f32_amax_sm80(CudaParams p) {
  const int64_t m = blockIdx.x;
  const float amax = RowMax(p, p.x + m * p.k);
  if (threadIdx.x == 0) p.amax[m] = amax;
}

// One block: the first max_spike_rows rows above the threshold, in order.
__global__ void __launch_bounds__(cuda::kWarp) quantize_s8r_f32_spikes_sm80(CudaParams p) {
  const int lane = static_cast<int>(threadIdx.x);
  int64_t found = 0;
  for (int64_t m0 = 0; m0 < p.m; m0 += cuda::kWarp) {
    const int64_t m = m0 + lane;
    const bool spike = m < p.m && p.amax[m] > p.spike_threshold;
    const unsigned mask = __ballot_sync(0xffffffffu, spike);
    const int64_t place = found + __popc(mask & ((1u << lane) - 1));
    const bool taken = spike && place < p.max_spike_rows;
    if (taken) p.spike_rows[place] = static_cast<int32_t>(m);
    if (m < p.m) p.is_spike[m] = taken ? 1 : 0;
    found += __popc(mask);
  }
  if (lane != 0) return;
  const int64_t taken = found < p.max_spike_rows ? found : p.max_spike_rows;
  *p.num_spike_rows = static_cast<int32_t>(taken);
  atomicAdd(&p.counters->spike_rows, static_cast<unsigned long long>(taken));
  atomicAdd(&p.counters->missed, static_cast<unsigned long long>(found - taken));
}

__device__ float RoundToBf16(float v) { return __bfloat162float(__float2bfloat16_rn(v)); }

__global__ void __launch_bounds__(kThreads) quantize_s8r_f32_sm80(CudaParams p) {
  const int64_t m = blockIdx.x;
  const float* x = p.x + m * p.k;
  const bool tested = p.spike_threshold > 0, spike = tested && p.is_spike[m] != 0;
  float scale = p.static_scale;
  if (scale == 0) {
    const float amax = tested ? p.amax[m] : RowMax(p, x);
    scale = spike ? 1.0f : SymmetricScale(amax, p.code_max);
  }
  const float inv_scale = 1.0f / scale;
  const float low = static_cast<float>(-p.code_max), high = static_cast<float>(p.code_max);
  int64_t saturated = 0;
  int8_t* q = p.q + m * p.q_stride;
  for (int64_t k = threadIdx.x; k < p.q_stride; k += kThreads) {
    const float value = k >= p.k || spike || IsKept(p, k) ? 0.0f : x[k] * inv_scale;
    q[k] = static_cast<int8_t>(RoundClamp(value, -p.code_max, p.code_max));
    saturated += p.static_scale > 0 && (rintf(value) < low || rintf(value) > high);
  }
  for (int64_t c = threadIdx.x; c < p.num_kept; c += kThreads) {
    p.kept_x[m * p.num_kept + c] = spike ? 0.0f : RoundToBf16(x[p.kept[c]]);
  }
  for (int64_t s = threadIdx.x; s < p.num_super; s += kThreads) {
    p.super_x[m * p.num_super + s] = spike ? 0.0f : RoundToBf16(x[p.super[s]]);
  }
  if (threadIdx.x == 0) p.scale[m] = scale;
  if (p.static_scale > 0 && saturated > 0) {
    atomicAdd(&p.counters->saturated, static_cast<unsigned long long>(saturated));
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const cuda::Shape rows{.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kThreads)};
  if (p.spike_threshold > 0) {
    SF_RETURN_IF_ERROR(cuda::Launch("quantize_s8r_f32 amax", quantize_s8r_f32_amax_sm80, rows, stream, p));
    SF_RETURN_IF_ERROR(cuda::Launch("quantize_s8r_f32 spikes", quantize_s8r_f32_spikes_sm80,
                                    {.grid = dim3(1), .block = dim3(cuda::kWarp)}, stream, p));
  }
  return cuda::Launch("quantize_s8r_f32", quantize_s8r_f32_sm80, rows, stream, p);
}

}  // namespace spikefold::kernels::quantize_s8r_f32
