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

__device__ inline bool IsKept(const CudaParams& p, int64_t k) {
  return p.is_kept != nullptr && p.is_kept[k] != 0;
}

__device__ inline float LargerSize(float size, float4 v) {
  return fmaxf(size, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
}
// Largest magnitude of the row's columns that are not kept.
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
__device__ inline void ShiftRow(const float* shift, int64_t k, float* row, Places place = kInOrder) {
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

// Codes of a row with a scale: the nearest integers, ties to even, as RoundClamp() makes them; and how many
// of this thread's had to be clamped to a static one.
struct Coder {
  __device__ Coder(const CudaParams& p, float scale)
      : inv_scale(1.0f / scale), most(static_cast<float>(p.code_max)), counts(p.static_scale > 0) {}
  // A sum with 1.5 * 2^23 has the integer in its low bits. The largest codes are odd, so half above them is
  // one more.
  __device__ uint32_t Bits(float x) {
    const float value = x * inv_scale;
    if (counts) clamped += fabsf(value) >= most + 0.5f ? 1 : 0;
    return __float_as_uint(fminf(fmaxf(value, -most), most) + 12582912.0f);
  }
  __device__ int8_t operator()(float x) { return static_cast<int8_t>(Bits(x)); }
  __device__ uint32_t operator()(float4 v) {  // four codes
    const uint32_t low = __byte_perm(Bits(v.x), Bits(v.y), 0x0040),
                   high = __byte_perm(Bits(v.z), Bits(v.w), 0x0040);
    return __byte_perm(low, high, 0x5410);
  }
  float inv_scale, most;
  bool counts;
  int clamped = 0;
};
// By all threads. One addition a block: those of all threads to one place take longer than all else.
__device__ inline void CountClamped(const CudaParams& p, int clamped) {
  if (p.static_scale == 0 || __syncthreads_or(clamped) == 0) return;
  const int all = cuda::BlockReduce(clamped, cuda::Sum());
  if (threadIdx.x == 0) atomicAdd(&p.counters->saturated, static_cast<unsigned long long>(all));
}

// Row m with the scale given; a spike row becomes zeros. y: where the floats go, or null.
__device__ inline void WriteRow(const CudaParams& p, int64_t m, const float* x, Places place, float scale,
                                bool spike, float* y) {
  Coder code(p, scale);
  int8_t* q = p.q + m * p.q_stride;
  if (y != nullptr) y += m * p.k;
  if (p.k % 4 == 0 && p.q_stride % 4 == 0 && p.is_kept == nullptr) {
#pragma unroll 2
    for (int i = static_cast<int>(threadIdx.x) * 4; i < p.q_stride; i += static_cast<int>(blockDim.x) * 4) {
      float4 v = make_float4(0, 0, 0, 0);
      if (i < p.k && !spike) v = *reinterpret_cast<const float4*>(x + place(i));
      *reinterpret_cast<uint32_t*>(q + i) = code(v);
      if (i < p.k && y != nullptr) *reinterpret_cast<float4*>(y + i) = v;
    }
  } else {
    for (int i = static_cast<int>(threadIdx.x); i < p.q_stride; i += static_cast<int>(blockDim.x)) {
      const float v = i < p.k && !spike ? x[place(i)] : 0.0f;
      q[i] = code(i < p.k && IsKept(p, i) ? 0.0f : v);
      if (i < p.k && y != nullptr) y[i] = v;
    }
  }
  WriteColumns(p, m, x, place, spike);
  if (threadIdx.x == 0) p.scale[m] = scale;
  CountClamped(p, code.clamped);
}

// Row m without a test for spikes.
__device__ inline void QuantizeRow(const CudaParams& p, int64_t m, const float* x, Places place,
                                   float* y = nullptr) {
  const float scale = p.static_scale > 0 ? p.static_scale : SymmetricScale(RowMax(p, x, place), p.code_max);
  WriteRow(p, m, x, place, scale, false, y);
}

// Row m of source(0) to source(k - 1), rotated in shared memory, shifted and quantized. row: as
// TransformRow() wants it. shift [k], or null.
template <typename Source>
__device__ inline void RotateAndQuantizeRow(const CudaParams& p, int64_t m,
                                            const hadamard_f32_f32::CudaPlan& rotation, const float* shift,
                                            Source source, float* row, float* y) {
  const Places place;
  const float size = hadamard_f32_f32::TransformRow(row, static_cast<int>(p.k), rotation, source);
  if (shift != nullptr || p.is_kept != nullptr) {
    ShiftRow(shift, p.k, row, place);
    return QuantizeRow(p, m, row, place, y);
  }
  const float scale =
      p.static_scale > 0 ? p.static_scale : SymmetricScale(cuda::BlockReduce(size, cuda::Max()), p.code_max);
  WriteRow(p, m, row, place, scale, false, y);
}

// QuantizeRow() of a row in registers: piece j of a thread are the four values from first + 4 j blockDim.x
// on, 0 behind the row's end. shift [k], or null. y: where the floats go, or null. reduce(size): the largest
// size of the row, of which the thread's pieces have this one; called by all threads, unless the scale is
// static.
template <int kPieces, typename Reduce>
__device__ inline void QuantizeHeldRow(const CudaParams& p, int64_t m, const float* shift,
                                       float4 (&v)[kPieces], float* y, int first, Reduce reduce) {
  const int step = 4 * static_cast<int>(blockDim.x);
  float size = 0;
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    const int at = first + j * step;
    if (at >= p.k) continue;
    if (shift != nullptr) {
      const float4 by = *reinterpret_cast<const float4*>(shift + at);
      v[j] = make_float4(v[j].x - by.x, v[j].y - by.y, v[j].z - by.z, v[j].w - by.w);
    }
    if (y != nullptr) *reinterpret_cast<float4*>(y + m * p.k + at) = v[j];
    size = LargerSize(size, v[j]);
  }
  const float scale = p.static_scale > 0 ? p.static_scale : SymmetricScale(reduce(size), p.code_max);
  Coder code(p, scale);
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    const int at = first + j * step;
    if (at < p.q_stride) *reinterpret_cast<uint32_t*>(p.q + m * p.q_stride + at) = code(v[j]);
  }
  if (threadIdx.x == 0) p.scale[m] = scale;
  CountClamped(p, code.clamped);
}
// A row that one block holds.
template <int kPieces>
__device__ inline void QuantizeHeldRow(const CudaParams& p, int64_t m, const float* shift,
                                       float4 (&v)[kPieces], float* y) {
  QuantizeHeldRow(p, m, shift, v, y, 4 * static_cast<int>(threadIdx.x),
                  [](float size) { return cuda::BlockReduce(size, cuda::Max()); });
}

}  // namespace spikefold::kernels::quantize_s8r_f32
