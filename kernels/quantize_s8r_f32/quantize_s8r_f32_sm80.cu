#include "formats/base/status.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::quantize_s8r_f32 {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) quantize_s8r_f32_amax_sm80(const __grid_constant__ CudaParams p) {
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

__global__ void __launch_bounds__(kMostThreads) quantize_s8r_f32_sm80(const __grid_constant__ CudaParams p) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t m = blockIdx.x;
  const float* x = p.x + m * p.k;
  if (p.spike_threshold == 0) {
    QuantizeRow(p, m, x);
    return;
  }
  const bool spike = p.is_spike[m] != 0;
  const float found = spike ? 1.0f : SymmetricScale(p.amax[m], p.code_max);
  WriteRow(p, m, x, p.static_scale > 0 ? p.static_scale : found, spike);
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
  cuda::Shape last = rows;
  last.overlaps = true;
  last.block = dim3(RowThreads(p.m, p.k));
  return cuda::Launch("quantize_s8r_f32", quantize_s8r_f32_sm80, last, stream, p);
}

}  // namespace spikefold::kernels::quantize_s8r_f32
