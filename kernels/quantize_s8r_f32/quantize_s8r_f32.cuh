// A block of threads quantizes one row, in global or shared memory: for this kernel and those that fuse it.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/block.cuh"
#include "kernels/numeric.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"

namespace spikefold::kernels::quantize_s8r_f32 {

__device__ inline bool IsKept(const CudaParams& p, int64_t k) {
  return p.is_kept != nullptr && p.is_kept[k] != 0;
}

__device__ inline void CopyRow(const float* row, int64_t k, float* to) {
  if (k % 4 != 0) {
    for (int64_t i = threadIdx.x; i < k; i += blockDim.x) to[i] = row[i];
    return;
  }
  for (int64_t i = threadIdx.x * 4; i < k; i += blockDim.x * 4) {
    *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(row + i);
  }
}

// Largest magnitude of the row's columns that are not kept.
__device__ inline float RowMax(const CudaParams& p, const float* x) {
  float amax = 0;
  if (p.k % 4 == 0 && p.is_kept == nullptr) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) * 4; i < p.k; i += static_cast<int>(blockDim.x) * 4) {
      const float4 v = *reinterpret_cast<const float4*>(x + i);
      amax = fmaxf(amax, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
    }
    return cuda::BlockReduce(amax, cuda::Max());
  }
  for (int64_t k = threadIdx.x; k < p.k; k += blockDim.x) {
    if (!IsKept(p, k)) amax = fmaxf(amax, fabsf(x[k]));
  }
  return cuda::BlockReduce(amax, cuda::Max());
}

// Takes the shift (may be null) off a row in shared memory, which must be visible to all threads before and
// is after.
__device__ inline void ShiftRow(const float* shift, int64_t k, float* row) {
  if (shift == nullptr) return;
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) row[i] = row[i] - shift[i];
  __syncthreads();
}

__device__ inline float RoundToBf16(float v) { return __bfloat162float(__float2bfloat16_rn(v)); }

// Kept and super columns of row m, rounded to bf16; zeros of a spike row.
__device__ inline void WriteColumns(const CudaParams& p, int64_t m, const float* x, bool spike) {
  for (int64_t c = threadIdx.x; c < p.num_kept; c += blockDim.x) {
    p.kept_x[m * p.num_kept + c] = spike ? 0.0f : RoundToBf16(x[p.kept[c]]);
  }
  for (int64_t c = threadIdx.x; p.kept_rows != nullptr && c < p.kept_row_columns; c += blockDim.x) {
    const bool zero = spike || c >= p.num_kept;
    p.kept_rows[m * p.kept_row_columns + c] =
        zero ? uint16_t{0} : __bfloat16_as_ushort(__float2bfloat16_rn(x[p.kept[c]]));
  }
  for (int64_t s = threadIdx.x; s < p.num_super; s += blockDim.x) {
    p.super_x[m * p.num_super + s] = spike ? 0.0f : RoundToBf16(x[p.super[s]]);
  }
}

// Row m with the scale given; a spike row becomes zeros.
__device__ inline void WriteRow(const CudaParams& p, int64_t m, const float* x, float scale, bool spike) {
  const float inv_scale = 1.0f / scale;
  const float low = static_cast<float>(-p.code_max), high = static_cast<float>(p.code_max);
  int64_t saturated = 0;
  int8_t* q = p.q + m * p.q_stride;
  const auto code = [&](float value) {
    saturated += p.static_scale > 0 && (rintf(value) < low || rintf(value) > high);
    return static_cast<int8_t>(RoundClamp(value, -p.code_max, p.code_max));
  };
  if (p.k % 4 == 0 && p.q_stride % 4 == 0 && p.is_kept == nullptr) {
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x) * 4; i < p.q_stride; i += static_cast<int>(blockDim.x) * 4) {
      float4 v = make_float4(0, 0, 0, 0);
      if (i < p.k && !spike) v = *reinterpret_cast<const float4*>(x + i);
      *reinterpret_cast<char4*>(q + i) = make_char4(code(v.x * inv_scale), code(v.y * inv_scale),
                                                    code(v.z * inv_scale), code(v.w * inv_scale));
    }
  } else {
    for (int64_t k = threadIdx.x; k < p.q_stride; k += blockDim.x) {
      q[k] = code(k >= p.k || spike || IsKept(p, k) ? 0.0f : x[k] * inv_scale);
    }
  }
  WriteColumns(p, m, x, spike);
  if (threadIdx.x == 0) p.scale[m] = scale;
  if (p.static_scale > 0 && saturated > 0) {
    atomicAdd(&p.counters->saturated, static_cast<unsigned long long>(saturated));
  }
}

// Row m without a test for spikes.
__device__ inline void QuantizeRow(const CudaParams& p, int64_t m, const float* x) {
  const float scale = p.static_scale > 0 ? p.static_scale : SymmetricScale(RowMax(p, x), p.code_max);
  WriteRow(p, m, x, scale, false);
}

}  // namespace spikefold::kernels::quantize_s8r_f32
