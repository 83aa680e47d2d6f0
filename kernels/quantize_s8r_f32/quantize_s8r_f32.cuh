// A block of threads quantizes one row, in global or shared memory or in registers: for this kernel and those
// that fuse it. Where a row's values lie in shared memory depends on whether it was rotated there (`place`).
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/block.cuh"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.cuh"
#include "kernels/numeric.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32_cuda.h"

namespace spikefold::kernels::quantize_s8r_f32 {

using hadamard_f32_f32::Places;
inline constexpr Places kInOrder = {0};
// Of a row that is rotated in shared memory, or not.
__device__ inline Places PlacesOf(const hadamard_f32_f32::CudaPlan& rotation) {
  return rotation.num_factors > 0 ? Places() : kInOrder;
}

__device__ inline bool IsKept(const CudaParams& p, int64_t k) {
  return p.is_kept != nullptr && p.is_kept[k] != 0;
}

__device__ inline void CopyRow(const float* row, Places place, int64_t k, float* to) {
  if (k % 4 != 0) {
    for (int64_t i = threadIdx.x; i < k; i += blockDim.x) to[i] = row[place(static_cast<int>(i))];
    return;
  }
  for (int64_t i = threadIdx.x * 4; i < k; i += blockDim.x * 4) {
    *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(row + place(static_cast<int>(i)));
  }
}

// Largest magnitude of the row's columns that are not kept.
__device__ inline float LargerSize(float amax, float4 v) {
  return fmaxf(amax, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
}
__device__ inline float RowMax(const CudaParams& p, const float* x, Places place) {
  float amax = 0;
  if (p.k % 4 == 0 && p.is_kept == nullptr) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x) * 4; i < p.k; i += static_cast<int>(blockDim.x) * 4) {
      amax = LargerSize(amax, *reinterpret_cast<const float4*>(x + place(i)));
    }
    return cuda::BlockReduce(amax, cuda::Max());
  }
  for (int64_t k = threadIdx.x; k < p.k; k += blockDim.x) {
    if (!IsKept(p, k)) amax = fmaxf(amax, fabsf(x[place(static_cast<int>(k))]));
  }
  return cuda::BlockReduce(amax, cuda::Max());
}

// Takes the shift (may be null) off a row in shared memory, which must be visible to all threads before and
// is after.
__device__ inline void ShiftRow(const float* shift, int64_t k, float* row, Places place) {
  if (shift == nullptr) return;
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    float* const v = row + place(static_cast<int>(i));
    *v = *v - shift[i];
  }
  __syncthreads();
}

__device__ inline float RoundToBf16(float v) { return __bfloat162float(__float2bfloat16_rn(v)); }

// Kept and super columns of row m, rounded to bf16; zeros of a spike row.
__device__ inline void WriteColumns(const CudaParams& p, int64_t m, const float* x, Places place,
                                    bool spike) {
  for (int64_t c = threadIdx.x; c < p.num_kept; c += blockDim.x) {
    p.kept_x[m * p.num_kept + c] = spike ? 0.0f : RoundToBf16(x[place(p.kept[c])]);
  }
  for (int64_t c = threadIdx.x; p.kept_rows != nullptr && c < p.kept_row_columns; c += blockDim.x) {
    const bool zero = spike || c >= p.num_kept;
    p.kept_rows[m * p.kept_row_columns + c] =
        zero ? uint16_t{0} : __bfloat16_as_ushort(__float2bfloat16_rn(x[place(p.kept[c])]));
  }
  for (int64_t s = threadIdx.x; s < p.num_super; s += blockDim.x) {
    p.super_x[m * p.num_super + s] = spike ? 0.0f : RoundToBf16(x[place(p.super[s])]);
  }
}

// Codes of a row with a scale, and how many this thread had to clamp to a static one.
struct Coder {
  __device__ Coder(const CudaParams& p, float scale) : inv_scale(1.0f / scale), most(p.code_max) {}
  __device__ int8_t operator()(float x) {
    const float value = x * inv_scale, high = static_cast<float>(most);
    clamped += fabsf(rintf(value)) > high ? 1 : 0;
    return static_cast<int8_t>(RoundClamp(value, -most, most));
  }
  __device__ char4 operator()(float4 v) {
    return make_char4((*this)(v.x), (*this)(v.y), (*this)(v.z), (*this)(v.w));
  }
  float inv_scale;
  int most, clamped = 0;
};
// By all threads. One addition a block: those of all threads to one place take longer than all else.
__device__ inline void CountClamped(const CudaParams& p, int clamped) {
  if (p.static_scale == 0 || __syncthreads_or(clamped) == 0) return;
  const int all = cuda::BlockReduce(clamped, cuda::Sum());
  if (threadIdx.x == 0) atomicAdd(&p.counters->saturated, static_cast<unsigned long long>(all));
}

// Row m with the scale given; a spike row becomes zeros.
__device__ inline void WriteRow(const CudaParams& p, int64_t m, const float* x, Places place, float scale,
                                bool spike) {
  Coder code(p, scale);
  int8_t* q = p.q + m * p.q_stride;
  if (p.k % 4 == 0 && p.q_stride % 4 == 0 && p.is_kept == nullptr) {
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x) * 4; i < p.q_stride; i += static_cast<int>(blockDim.x) * 4) {
      float4 v = make_float4(0, 0, 0, 0);
      if (i < p.k && !spike) v = *reinterpret_cast<const float4*>(x + place(i));
      *reinterpret_cast<char4*>(q + i) = code(v);
    }
  } else {
    for (int64_t k = threadIdx.x; k < p.q_stride; k += blockDim.x) {
      q[k] = code(k >= p.k || spike || IsKept(p, k) ? 0.0f : x[place(static_cast<int>(k))]);
    }
  }
  WriteColumns(p, m, x, place, spike);
  if (threadIdx.x == 0) p.scale[m] = scale;
  CountClamped(p, code.clamped);
}

// Row m without a test for spikes.
__device__ inline void QuantizeRow(const CudaParams& p, int64_t m, const float* x, Places place) {
  const float scale = p.static_scale > 0 ? p.static_scale : SymmetricScale(RowMax(p, x, place), p.code_max);
  WriteRow(p, m, x, place, scale, false);
}

// The same of a row in registers that Holds(): piece j of a thread are the values from PieceAt(j) on, 0
// behind the row's end. y: where the floats go, or null.
__device__ inline int PieceAt(int j) { return 4 * static_cast<int>(threadIdx.x + j * blockDim.x); }
template <int kPieces>
__device__ inline void QuantizeHeld(const CudaParams& p, int64_t m, const float* shift, float4 (&v)[kPieces],
                                    float* y) {
  float amax = 0;
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    const int at = PieceAt(j);
    if (at >= p.k) continue;
    if (shift != nullptr) {
      const float4 by = *reinterpret_cast<const float4*>(shift + at);
      v[j] = make_float4(v[j].x - by.x, v[j].y - by.y, v[j].z - by.z, v[j].w - by.w);
    }
    if (y != nullptr) *reinterpret_cast<float4*>(y + m * p.k + at) = v[j];
    amax = LargerSize(amax, v[j]);
  }
  const float scale =
      p.static_scale > 0 ? p.static_scale : SymmetricScale(cuda::BlockReduce(amax, cuda::Max()), p.code_max);
  Coder code(p, scale);
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    const int at = PieceAt(j);
    if (at < p.q_stride) *reinterpret_cast<char4*>(p.q + m * p.q_stride + at) = code(v[j]);
  }
  if (threadIdx.x == 0) p.scale[m] = scale;
  CountClamped(p, code.clamped);
}

}  // namespace spikefold::kernels::quantize_s8r_f32
