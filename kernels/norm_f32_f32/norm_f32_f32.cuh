// A block of threads adds and normalizes one row: for this kernel and those that fuse it.
#pragma once

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"

namespace spikefold::kernels::norm_f32_f32 {

// 1 / rms of `k` values of which this thread holds the sum of its squares.
__device__ inline float InverseRms(double squares, int64_t k, float eps) {
  const double mean = cuda::BlockReduce(squares, cuda::Sum()) / static_cast<double>(k);
  return static_cast<float>(1 / sqrt(mean + static_cast<double>(eps)));
}

__device__ inline double Square(float v) { return static_cast<double>(v) * static_cast<double>(v); }

// kWidth neighbouring floats in one access.
template <int kWidth>
struct Floats {
  static_assert(kWidth == 1 || kWidth == 4);
  float v[kWidth];
  __device__ static Floats Load(const float* from) {
    Floats f;
    if constexpr (kWidth == 4) {
      const float4 four = *reinterpret_cast<const float4*>(from);
      f.v[0] = four.x;
      f.v[1] = four.y;
      f.v[2] = four.z;
      f.v[3] = four.w;
    } else {
      f.v[0] = *from;
    }
    return f;
  }
  __device__ void Store(float* to) const {
    if constexpr (kWidth == 4) {
      *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
      *to = v[0];
    }
  }
};

// Gains do not depend on the kernel before: asked for ahead of its end, they come while it works.
__device__ inline void PrefetchGain(const CudaParams& p) {
  constexpr int kFloats = cuda::kLineBytes / static_cast<int>(sizeof(float));
  for (int64_t i = static_cast<int64_t>(threadIdx.x) * kFloats; i < p.k; i += blockDim.x * kFloats) {
    if (p.gain != nullptr) cuda::PrefetchLine(p.gain + i);
    if (p.branch_gain != nullptr) cuda::PrefetchLine(p.branch_gain + i);
  }
}

// use(i, j) of a thread's pieces j of a row, values from i on, that are within it.
template <int kWidth, int kPieces, typename Use>
__device__ inline void PiecesOf(int64_t k, Use use) {
#pragma unroll
  for (int j = 0; j < kPieces; ++j) {
    const int i = kWidth * static_cast<int>(threadIdx.x + j * blockDim.x);
    if (i < k) use(i, j);
  }
}
// A row of at most kPieces * kWidth values a thread, which stay in registers: one trip to memory. The adds
// into the residual; h: the norm's pieces, as PiecesOf() counts them.
template <int kWidth, int kPieces>
__device__ inline void NormHeldRow(const CudaParams& p, int64_t m, Floats<kWidth> (&h)[kPieces]) {
  const int64_t at = m * p.k;
  using Some = Floats<kWidth>;
  Some b[kPieces] = {};  // the branch, then the gains
  const auto pieces = [&](auto use) {
    PiecesOf<kWidth, kPieces>(p.k, [&](int i, int j) { use(i, h[j], b[j]); });
  };
  const auto squares_of = [&](const Some(&of)[kPieces]) {  // of what is not there: 0
    double squares = 0;
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) squares += Square(of[j].v[e]);
    }
    return squares;
  };
  pieces([&](int i, Some& h, Some& b) {
    h = Some::Load(p.residual + at + i);
    if (p.branch != nullptr) b = Some::Load(p.branch + at + i);
  });
  if (p.branch != nullptr) {
    float branch_factor = 1;
    if (p.branch_gain != nullptr) branch_factor = InverseRms(squares_of(b), p.k, p.eps);
    pieces([&](int i, Some& h, Some& b) {
      Some branch_gain;
      if (p.branch_gain != nullptr) branch_gain = Some::Load(p.branch_gain + i);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (p.branch_gain != nullptr) b.v[e] = b.v[e] * branch_factor * branch_gain.v[e];
        h.v[e] = h.v[e] + b.v[e];
      }
      h.Store(p.residual + at + i);
    });
  }
  pieces(
      [&](int i, Some&, Some& gain) { gain = Some::Load(p.gain + i); });  // on its way while they are added
  const float factor = InverseRms(squares_of(h), p.k, p.eps);
  pieces([&](int i, Some& h, Some& gain) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) h.v[e] = h.v[e] * factor * gain.v[e];
  });
}
template <int kWidth, int kPieces, typename Place>
__device__ inline void NormHeldRowTo(const CudaParams& p, int64_t m, float* y, Place place) {
  Floats<kWidth> h[kPieces] = {};
  NormHeldRow(p, m, h);
  PiecesOf<kWidth, kPieces>(p.k, [&](int i, int j) { h[j].Store(y + place(i)); });
}

// NormRow with k a multiple of kWidth.
template <int kWidth, typename Place>
__device__ inline void NormRowBy(const CudaParams& p, int64_t m, float* y, Place place, bool y_holds) {
  const int64_t at = m * p.k;
  const int k = static_cast<int>(p.k), step = kWidth * static_cast<int>(blockDim.x);
  const int begin = kWidth * static_cast<int>(threadIdx.x);
  using Some = Floats<kWidth>;
  constexpr int kHeld = kHeldValues / 4;
  if (p.gain != nullptr && k <= kHeld * step) return NormHeldRowTo<kWidth, kHeld>(p, m, y, place);
  float branch_factor = 1;
  if (p.branch != nullptr && p.branch_gain != nullptr) {
    double squares = 0;
    for (int i = begin; i < k; i += step) {
      const Some b = Some::Load(p.branch + at + i);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) squares += Square(b.v[e]);
    }
    branch_factor = InverseRms(squares, p.k, p.eps);
  }
  // Loads of several values are under way at once: the stores, which they might alias for all the compiler
  // knows, come behind them.
  constexpr int kBatch = kWidth == 4 ? 2 : 4;
  const auto batches = [&](auto load, auto use) {
    for (int i0 = begin; i0 < k; i0 += kBatch * step) {
      Some a[kBatch] = {}, b[kBatch] = {};
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (i0 + j * step < k) load(i0 + j * step, a[j], b[j]);
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (i0 + j * step < k) use(i0 + j * step, a[j], b[j]);
      }
    }
  };
  double squares = 0;
  batches(
      [&](int i, Some& h, Some& b) {
        h = Some::Load(p.residual + at + i);
        if (p.branch != nullptr) b = Some::Load(p.branch + at + i);
      },
      [&](int i, Some h, Some b) {
        if (p.branch != nullptr) {
          Some gain;
          if (p.branch_gain != nullptr) gain = Some::Load(p.branch_gain + i);
#pragma unroll
          for (int e = 0; e < kWidth; ++e) {
            if (p.branch_gain != nullptr) b.v[e] = b.v[e] * branch_factor * gain.v[e];
            h.v[e] = h.v[e] + b.v[e];
          }
          h.Store(p.residual + at + i);
        }
        if (y_holds) h.Store(y + place(i));
#pragma unroll
        for (int e = 0; e < kWidth; ++e) squares += Square(h.v[e]);
      });
  if (p.gain == nullptr) return;
  const float factor = InverseRms(squares, p.k, p.eps);
  batches(  // each thread reads what it wrote itself
      [&](int i, Some& h, Some& gain) {
        h = Some::Load(y_holds ? y + place(i) : p.residual + at + i);
        gain = Some::Load(p.gain + i);
      },
      [&](int i, Some h, Some gain) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) h.v[e] = h.v[e] * factor * gain.v[e];
        h.Store(y + place(i));
      });
}

// Row m: the adds into the residual, then the norm into y [k] (shared or global), value i at place(i), fours
// together, if there is a gain. With y_holds the sums wait for the norm in y, which is shared, instead of
// being read again.
template <typename Place>
__device__ inline void NormRow(const CudaParams& p, int64_t m, float* y, Place place, bool y_holds) {
  if (p.k % 4 == 0) {
    NormRowBy<4>(p, m, y, place, y_holds);
  } else {
    NormRowBy<1>(p, m, y, place, y_holds);
  }
}

}  // namespace spikefold::kernels::norm_f32_f32
