#include "formats/base/status.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.cuh"

namespace spikefold::kernels::quantize_s8r_f32 {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) quantize_s8r_f32_amax_sm80(const __grid_constant__ CudaParams p) {
  const int64_t m = blockIdx.x;
  const float amax = RowMax(p, p.x + m * p.k, kInOrder);
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
    QuantizeRow(p, m, x, kInOrder);
    return;
  }
  const bool spike = p.is_spike[m] != 0;
  const float found = spike ? 1.0f : SymmetricScale(p.amax[m], p.code_max);
  WriteRow(p, m, x, kInOrder, p.static_scale > 0 ? p.static_scale : found, spike, nullptr);
}

struct Range {
  float low, high;
};
template <typename Combine>
__device__ float WarpReduce(float value, Combine combine) {
  for (int offset = cuda::kWarp / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}
// Range of the columns [begin, end) that are not kept, and 0, over `step` threads of which this is one.
__device__ Range RangeOf(const CudaParams& p, const float* x, int64_t begin, int64_t end, int64_t step) {
  Range r = {0, 0};
  for (int64_t k = begin; k < end; k += step) {
    if (IsKept(p, k)) continue;
    r.low = fminf(r.low, x[k]);
    r.high = fmaxf(r.high, x[k]);
  }
  return r;
}
__device__ AsymmetricScale ScaleOf(const CudaParams& p, const Range& r) {
  if (p.static_scale > 0) return {p.static_scale, p.static_zero};
  const int high = ActivationMax(p.bits);
  if (p.symmetric) return {SymmetricScale(fmaxf(-r.low, r.high), high), 0};
  return AsymmetricScaleOf(r.low, r.high, ActivationMin(p.bits, false), high);
}

// Zero points and groups: a block a row, a warp a group.
__global__ void __launch_bounds__(kThreads, 4)
    quantize_s8r_f32_grids_sm80(const __grid_constant__ CudaParams p) {
  const int64_t m = blockIdx.x;
  const float* x = p.x + m * p.k;
  int8_t* q = p.q + m * p.q_stride;
  const bool spike = p.spike_threshold > 0 && p.is_spike[m] != 0;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp,
            warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  int clamped = 0;
  const auto convert = [&](const AsymmetricScale& s, int64_t begin, int64_t end, int64_t step) {
    const int low = ActivationMin(p.bits, p.symmetric) - s.zero, high = ActivationMax(p.bits) - s.zero;
    const int shift = p.bits == 8 ? s.zero : 0;
    const float inv_scale = 1.0f / s.scale;
    for (int64_t k = begin; k < end; k += step) {
      const float value = spike || IsKept(p, k) ? 0.0f : x[k] * inv_scale, near = rintf(value);
      q[k] = static_cast<int8_t>(RoundClamp(value, low, high) + shift);
      clamped += near < static_cast<float>(low) || near > static_cast<float>(high) ? 1 : 0;
    }
  };
  const AsymmetricScale of_spike = {p.static_scale > 0 ? p.static_scale : 1.0f, 0};
  if (p.group > 0) {
    const int64_t groups = p.k / p.group;
    for (int64_t g = warp; g < groups; g += kThreads / cuda::kWarp) {
      const int64_t begin = g * p.group + lane, end = (g + 1) * p.group;
      Range r = RangeOf(p, x, begin, end, cuda::kWarp);
      r.low = -WarpReduce(-r.low, cuda::Max());
      r.high = WarpReduce(r.high, cuda::Max());
      const AsymmetricScale scale = spike ? of_spike : ScaleOf(p, r);
      convert(scale, begin, end, cuda::kWarp);
      if (lane == 0) p.scale[m * groups + g] = scale.scale;
    }
  } else {
    Range r = RangeOf(p, x, threadIdx.x, p.k, kThreads);
    r.low = -cuda::BlockReduce(-r.low, cuda::Max());
    r.high = cuda::BlockReduce(r.high, cuda::Max());
    const AsymmetricScale scale = spike ? of_spike : ScaleOf(p, r);
    convert(scale, threadIdx.x, p.k, kThreads);
    if (threadIdx.x == 0) {
      p.scale[m] = scale.scale;
      if (p.zero != nullptr) p.zero[m] = scale.zero;
    }
  }
  for (int64_t k = p.k + threadIdx.x; k < p.q_stride; k += kThreads) q[k] = 0;
  WriteColumns(p, m, x, kInOrder, spike);
  if (p.static_scale == 0) return;
  const int all = __reduce_add_sync(0xffffffffu, clamped);
  if (lane == 0 && all > 0) {
    atomicAdd(&p.counters->saturated, static_cast<unsigned long long>(all));
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
  if (!p.symmetric || p.group > 0) {
    return cuda::Launch("quantize_s8r_f32 grids", quantize_s8r_f32_grids_sm80, rows, stream, p);
  }
  cuda::Shape last = rows;
  last.overlaps = true;
  last.block = dim3(RowThreads(p.m, p.k));
  return cuda::Launch("quantize_s8r_f32", quantize_s8r_f32_sm80, last, stream, p);
}

}  // namespace spikefold::kernels::quantize_s8r_f32
