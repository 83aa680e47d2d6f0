// Many float rows times weights of codes: unpacking is paid once and not once for 64 rows. A linear's weights
// become an f16 matrix [n, k] in scratch memory, kept columns and super weights in it, under a power of two
// for each channel; x becomes f16 under one for each row; pingpong_tiles.cuh multiplies. sm_90a.
// What weights look like is up to Codes:
//   kMaxCode                        no code less its zero point is larger in size
//   Place(column)                   where a column lies in the f16 matrices, of x too; four that begin at a
//                                   multiple of 4 stay side by side
//   EachScale(w, k, n0, rows, use)  use(row, scale) of every scale of channels n0 to n0 + rows - 1, rows at
//                                   most kUnpackRows; by all threads of a block
//   Fill(w, k, n0, rows, units, to) their values times unit's inverse, to [rows][k]; by all threads too
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/half_units.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pingpong_tiles.cuh"
#include "kernels/cuda/simt_matmul.cuh"

namespace spikefold::kernels::cuda::wide {

inline constexpr int kRowThreads = 512;
inline constexpr int kUnpackWarps = 8, kUnpackThreads = kUnpackWarps * kWarp;
inline constexpr int kUnpackRows = 16;  // channels of a block

__device__ inline uint32_t SizeOf(float v) { return __float_as_uint(v) & 0x7fffffffu; }

template <typename Codes>
__global__ void __launch_bounds__(kRowThreads)
    ManyRows(const float* x, int64_t k, uint16_t* to, float* unit) {
  const float* const row = x + blockIdx.x * k;
  uint16_t* const out = to + blockIdx.x * k;
  const auto for_each = [&](auto use) {
    for (int64_t at = static_cast<int64_t>(threadIdx.x) * 4; at < k; at += kRowThreads * 4) {
      use(at, *reinterpret_cast<const float4*>(row + at));
    }
  };
  uint32_t largest = 0;
  for_each([&](int64_t, float4 v) {
    largest = max(largest, max(max(SizeOf(v.x), SizeOf(v.y)), max(SizeOf(v.z), SizeOf(v.w))));
  });
  largest = BlockReduce(largest, [](uint32_t a, uint32_t b) { return max(a, b); });
  const float inverse = half::InverseScaleOf(largest);
  for_each([&](int64_t at, float4 v) {
    *reinterpret_cast<uint2*>(out + Codes::Place(at)) = make_uint2(
        half::F16(v.x * inverse, v.y * inverse, false), half::F16(v.z * inverse, v.w * inverse, false));
  });
  if (threadIdx.x == 0) unit[blockIdx.x] = half::ScaleOf(largest);
}

// A block kUnpackRows channels; `to` and `unit` are of the channels from `first` on.
template <typename Codes>
__global__ void __launch_bounds__(kUnpackThreads)
    Unpack(const __grid_constant__ SimtParams p, int which, int64_t first, uint16_t* to, float* unit) {
  __shared__ uint32_t largest[kUnpackRows], kept_largest[kUnpackRows];
  const Linear& w = p.linears.linear[which];
  const SuperList& super = p.super[which];
  const int64_t of_block = static_cast<int64_t>(blockIdx.x) * kUnpackRows, n0 = first + of_block;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kUnpackRows), w.n - n0));
  const auto kept_weight = [&](int64_t c, int row) {
    return __uint_as_float(static_cast<uint32_t>(w.kept_w[c * w.kept_stride + n0 + row]) << 16);
  };
  uint16_t* const out_rows = to + of_block * p.k;
  const int64_t num_kept = w.kept_w == nullptr ? 0 : p.tail.num_kept;

  // What no value of a channel exceeds: codes, a kept column and super weights may meet in one place.
  if (threadIdx.x < kUnpackRows) largest[threadIdx.x] = kept_largest[threadIdx.x] = 0;
  __syncthreads();
  Codes::EachScale(w, p.k, n0, rows, [&](int row, float scale) {
    const uint32_t size = SizeOf(scale * Codes::kMaxCode);
    if (size > largest[row]) atomicMax(&largest[row], size);
  });
  const int row_of = static_cast<int>(threadIdx.x) % kUnpackRows;
  uint32_t kept_most = 0;
  if (row_of < rows) {
    for (int64_t c = threadIdx.x / kUnpackRows; c < num_kept; c += kUnpackThreads / kUnpackRows) {
      kept_most = max(kept_most, SizeOf(kept_weight(c, row_of)));
    }
  }
  if (num_kept > 0) atomicMax(&kept_largest[row_of], kept_most);
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x);  // a thread a channel
  if (own < rows) {
    float bound = __uint_as_float(largest[own]) + __uint_as_float(kept_largest[own]);
    for (int64_t s = 0; s < super.num; ++s) {
      if (super.row[s] == n0 + own) bound += fabsf(super.value[s]);
    }
    largest[own] = SizeOf(bound);
    unit[of_block + own] = half::ScaleOf(SizeOf(bound));
  }
  __syncthreads();
  Codes::Fill(w, p.k, n0, rows, largest, out_rows);

  if (num_kept == 0 && super.num == 0) return;
  __syncthreads();
  const auto add = [&](int row, int64_t column, float value) {
    __half* const place = reinterpret_cast<__half*>(out_rows) + row * p.k + Codes::Place(column);
    *place = __float2half_rn(__half2float(*place) + value * half::InverseScaleOf(largest[row]));
  };
  for (int64_t i = threadIdx.x; i < num_kept * kUnpackRows; i += kUnpackThreads) {
    const int row = static_cast<int>(i % kUnpackRows);
    if (row < rows) add(row, p.tail.kept[i / kUnpackRows], kept_weight(i / kUnpackRows, row));
  }
  __syncthreads();
  // Two super weights may be in one place.
  for (int64_t s = 0; s < super.num && own < rows; ++s) {
    if (super.row[s] == n0 + own) add(own, p.tail.super_column[super.slot[s]], super.value[s]);
  }
}

inline constexpr int64_t kWideBytes = int64_t{128} << 20;  // of unpacked weights at a time
inline constexpr int64_t kStripe = 256;                    // channels of the widest tile of the product

constexpr int64_t Aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }
// Of f16 rows and their units.
constexpr int64_t BytesOf(int64_t rows, int64_t k) { return Aligned(rows * k * 2) + Aligned(rows * 4); }
constexpr int64_t StripeOf(int64_t k) {
  return std::max<int64_t>(1, kWideBytes / BytesOf(kStripe, k)) * kStripe;
}

// Of device memory that Run() works in, 256-byte aligned.
inline size_t ScratchBytes(const SimtParams& p) {
  int64_t all = 0;
  for (int i = 0; i < p.linears.count; ++i) all += BytesOf(p.linears.linear[i].n, p.k);
  return static_cast<size_t>(BytesOf(p.m, p.k) + std::min(all, BytesOf(StripeOf(p.k), p.k) + 2048));
}

// K a multiple of 8. `rows` of p is not used.
template <typename Codes>
absl::Status Run(const char* name, const SimtParams& p, void* scratch, const DeviceInfo& device,
                 const Stream& stream, const pingpong::Plan& tiles = {}) {
  if (p.m == 0) return absl::OkStatus();
  struct Half {
    uint16_t* rows;
    float* unit;
  };
  char* at = static_cast<char*>(scratch);
  const auto take = [&](int64_t rows) {
    const Half half = {reinterpret_cast<uint16_t*>(at),
                       reinterpret_cast<float*>(at + Aligned(rows * p.k * 2))};
    at += BytesOf(rows, p.k);
    return half;
  };
  const Half x = take(p.m);
  char* const weights = at;
  SF_RETURN_IF_ERROR(Launch(name, ManyRows<Codes>,
                            {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kRowThreads)}, stream,
                            p.x, p.k, x.rows, x.unit));
  const pingpong::Params none = {
      .name = name, .m = p.m, .row_bytes = 2 * p.k, .x = x.rows, .x_scale = x.unit};
  pingpong::Params product = none;  // of what has been unpacked
  int64_t left = StripeOf(p.k);
  const auto multiply = [&]() -> absl::Status {
    if (product.linears.count > 0) {
      SF_RETURN_IF_ERROR((pingpong::Run<pingpong::Type::kF16, float>(product, tiles, device, stream)));
    }
    product = none;
    left = StripeOf(p.k);
    at = weights;
    return absl::OkStatus();
  };
  for (int i = 0; i < p.linears.count; ++i) {
    const Linear& w = p.linears.linear[i];
    for (int64_t n0 = 0; n0 < w.n;) {
      // Whole tiles of the product, but for a linear's last: the place of a channel is a multiple of
      // kUnpackRows.
      const int64_t count = std::min(w.n - n0, left);
      const Half wide = take(count);
      SF_RETURN_IF_ERROR(Launch(
          name, Unpack<Codes>,
          {.grid = dim3(static_cast<unsigned>(CeilDiv(count, kUnpackRows))), .block = dim3(kUnpackThreads)},
          stream, p, i, n0, wide.rows, wide.unit));
      product.y_stride[product.linears.count] = w.n;
      Linear& part = product.linears.linear[product.linears.count++];
      part = w;
      part.n = count;
      part.w = wide.rows;
      part.w_scale = wide.unit;
      part.bias = w.bias == nullptr ? nullptr : w.bias + n0;
      part.y = w.y + n0;
      n0 += count;
      left -= (count + kStripe - 1) / kStripe * kStripe;
      if (left <= 0 || product.linears.count == kMaxLinears) SF_RETURN_IF_ERROR(multiply());
    }
  }
  return multiply();
}

}  // namespace spikefold::kernels::cuda::wide
