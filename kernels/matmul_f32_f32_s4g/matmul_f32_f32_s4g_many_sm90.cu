// Design: for many rows unpacking is paid once and not once for 64 rows. A linear's weights become an f16
// matrix [n, k] in scratch memory, kept columns and super weights in it, under a power of two for each
// channel; x becomes f16 under one for each row; kernels/cuda/half_tiles.cuh multiplies. Columns lie in the
// order that codes are unpacked in, in both.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/half_tiles.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_f16.cuh"

namespace spikefold::kernels::matmul_f32_f32_s4g {
namespace {

constexpr char kName[] = "matmul_f32_f32_s4g";
constexpr int kRowThreads = 512;
constexpr int kUnpackWarps = 8, kUnpackThreads = kUnpackWarps * cuda::kWarp;
constexpr int kTileRow = static_cast<int>(kTileRows), kTileColumn = static_cast<int>(kTileColumns);
constexpr float kMaxCode = 16;  // codes less their zero points are smaller

// Where column 16 j + 4 t + i of 64 lies: of the 16 values that a lane unpacks eight are neighbours, and so
// are those of four lanes.
__device__ inline int64_t Place(int64_t column) {
  const int64_t in_tile = column % kTileColumn, j = in_tile / 16, t = in_tile % 16 / 4;
  return column - in_tile + j / 2 * 32 + t * 8 + j % 2 * 4 + in_tile % 4;
}

__device__ inline uint32_t SizeOf(float v) { return __float_as_uint(v) & 0x7fffffffu; }

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
  largest = cuda::BlockReduce(largest, [](uint32_t a, uint32_t b) { return max(a, b); });
  const float inverse = InverseScaleOf(largest);
  for_each([&](int64_t at, float4 v) {
    *reinterpret_cast<uint2*>(out + Place(at)) =
        make_uint2(F16(v.x * inverse, v.y * inverse, false), F16(v.z * inverse, v.w * inverse, false));
  });
  if (threadIdx.x == 0) unit[blockIdx.x] = ScaleOf(largest);
}

// A block a tile of 16 channels; `to` and `unit` are of the channels from tile `first` on.
__global__ void __launch_bounds__(kUnpackThreads)
    Unpack(const __grid_constant__ cuda::SimtParams p, int which, int64_t first, uint16_t* to, float* unit) {
  __shared__ uint32_t largest[kTileRow], kept_largest[kTileRow];
  const cuda::Linear& w = p.linears.linear[which];
  const cuda::SuperList& super = p.super[which];
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
  const int warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int64_t row_tile = first + blockIdx.x, n0 = row_tile * kTileRow, tiles = p.k / kTileColumn;
  const int rows = static_cast<int>(min(static_cast<int64_t>(kTileRow), w.n - n0));
  const float* const scales = w.w_scale + row_tile * tiles * kTileRow;  // [tile][8][2]: channels g and g + 8
  const auto kept_weight = [&](int64_t c, int row) {
    return __uint_as_float(static_cast<uint32_t>(w.kept_w[c * w.kept_stride + n0 + row]) << 16);
  };
  uint16_t* const out_rows = to + static_cast<int64_t>(blockIdx.x) * kTileRow * p.k;
  const int64_t num_kept = w.kept_w == nullptr ? 0 : p.tail.num_kept;

  // What no value of a channel exceeds: codes, a kept column and super weights may meet in one place.
  if (threadIdx.x < kTileRow) largest[threadIdx.x] = kept_largest[threadIdx.x] = 0;
  __syncthreads();
  const int of = static_cast<int>(threadIdx.x) % kTileRow, row_of = of / 2 + of % 2 * 8;
  uint32_t most = 0, kept_most = 0;
  for (int64_t i = threadIdx.x; i < tiles * kTileRow; i += kUnpackThreads) {  // `of` stays
    most = max(most, SizeOf(scales[i] * kMaxCode));
  }
  if (row_of < rows) {
    for (int64_t c = threadIdx.x / kTileRow; c < num_kept; c += kUnpackThreads / kTileRow) {
      kept_most = max(kept_most, SizeOf(kept_weight(c, row_of)));
    }
  }
  atomicMax(&largest[row_of], most);
  if (num_kept > 0) atomicMax(&kept_largest[row_of], kept_most);
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x);  // a thread a channel
  if (own < rows) {
    float bound = __uint_as_float(largest[own]) + __uint_as_float(kept_largest[own]);
    for (int64_t s = 0; s < super.num; ++s) {
      if (super.row[s] == n0 + own) bound += fabsf(super.value[s]);
    }
    largest[own] = SizeOf(bound);
    unit[blockIdx.x * kTileRow + own] = ScaleOf(SizeOf(bound));
  }
  __syncthreads();

  const int g = lane / 4, t = lane % 4;
  const float inverse[2] = {InverseScaleOf(largest[g]), InverseScaleOf(largest[g + 8])};
  for (int64_t tile = warp; tile < tiles; tile += kUnpackWarps) {
    const int64_t at = row_tile * tiles + tile;
    const uint4 v = static_cast<const uint4*>(w.w)[at * cuda::kWarp + lane];
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    const float2 scale = reinterpret_cast<const float2*>(scales)[tile * 8 + g];
    uint32_t zeros = 0x0808;
    if (w.w_zero != nullptr) zeros = reinterpret_cast<const uint16_t*>(w.w_zero)[at * 8 + g];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = g + 8 * half;
      if (row >= rows) break;
      const int zero = static_cast<int>(zeros >> (8 * half) & 0xff);
      const float by = (half == 0 ? scale.x : scale.y) * inverse[half];
      uint32_t out[8];
#pragma unroll
      for (int pair = 0; pair < 8; ++pair) {  // columns 2 h and 2 h + 1 of word j
        const int j = pair / 2, shift = 4 * half + 8 * (pair % 2);
        const auto value = [&](int i) {
          return static_cast<float>(static_cast<int>(words[j] >> (shift + 16 * i) & 0xf) - zero) * by;
        };
        out[pair] = F16(value(0), value(1), false);
      }
      uint4* const place = reinterpret_cast<uint4*>(out_rows + row * p.k + tile * kTileColumn) + t;
      place[0] = make_uint4(out[0], out[1], out[2], out[3]);
      place[4] = make_uint4(out[4], out[5], out[6], out[7]);
    }
  }
  if (num_kept == 0 && super.num == 0) return;
  __syncthreads();
  const auto add = [&](int row, int64_t column, float value) {
    __half* const place = reinterpret_cast<__half*>(out_rows) + row * p.k + Place(column);
    *place = __float2half_rn(__half2float(*place) + value * InverseScaleOf(largest[row]));
  };
  for (int64_t i = threadIdx.x; i < num_kept * kTileRow; i += kUnpackThreads) {
    const int row = static_cast<int>(i % kTileRow);
    if (row < rows) add(row, p.tail.kept[i / kTileRow], kept_weight(i / kTileRow, row));
  }
  __syncthreads();
  // Two super weights may be in one place.
  for (int64_t s = 0; s < super.num && own < rows; ++s) {
    if (super.row[s] == n0 + own) add(own, p.tail.super_column[super.slot[s]], super.value[s]);
  }
}

constexpr int64_t kWideBytes = int64_t{128} << 20;  // of unpacked weights at a time
constexpr int64_t kStripe = 256;                    // channels of a tile of the product

constexpr int64_t Aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }
// Of f16 rows and their units.
constexpr int64_t BytesOf(int64_t rows, int64_t k) { return Aligned(rows * k * 2) + Aligned(rows * 4); }
int64_t StripeOf(int64_t k) { return std::max<int64_t>(1, kWideBytes / BytesOf(kStripe, k)) * kStripe; }

}  // namespace

size_t ManyScratchBytes(const cuda::SimtParams& p) {
  int64_t all = 0;
  for (int i = 0; i < p.linears.count; ++i) all += BytesOf(p.linears.linear[i].n, p.k);
  return static_cast<size_t>(BytesOf(p.m, p.k) + std::min(all, BytesOf(StripeOf(p.k), p.k) + 2048));
}

absl::Status RunMany(const cuda::SimtParams& p, void* scratch, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream) {
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
  SF_RETURN_IF_ERROR(cuda::Launch(kName, ManyRows,
                                  {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kRowThreads)},
                                  stream, p.x, p.k, x.rows, x.unit));
  const cuda::half::Params none = {.name = kName, .m = p.m, .k = p.k, .x = x.rows, .x_unit = x.unit};
  cuda::half::Params product = none;  // of what has been unpacked
  int64_t left = StripeOf(p.k);
  const auto multiply = [&]() -> absl::Status {
    if (product.linears.count > 0) {
      SF_RETURN_IF_ERROR(cuda::half::Run<cuda::half::Type::kF16>(product, device, stream));
    }
    product = none;
    left = StripeOf(p.k);
    at = weights;
    return absl::OkStatus();
  };
  for (int i = 0; i < p.linears.count; ++i) {
    const cuda::Linear& w = p.linears.linear[i];
    for (int64_t n0 = 0; n0 < w.n;) {
      // Whole tiles of the product, but for a linear's last: the place of a channel is a multiple of 16.
      const int64_t count = std::min(w.n - n0, left);
      const Half wide = take(count);
      SF_RETURN_IF_ERROR(cuda::Launch(kName, Unpack,
                                      {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(count, kTileRows))),
                                       .block = dim3(kUnpackThreads)},
                                      stream, p, i, n0 / kTileRows, wide.rows, wide.unit));
      product.y_stride[product.linears.count] = w.n;
      cuda::Linear& part = product.linears.linear[product.linears.count++];
      part = w;
      part.n = count;
      part.w = wide.rows;
      part.w_scale = wide.unit;
      part.bias = w.bias == nullptr ? nullptr : w.bias + n0;
      part.y = w.y + n0;
      n0 += count;
      left -= (count + kStripe - 1) / kStripe * kStripe;
      if (left <= 0 || product.linears.count == cuda::kMaxLinears) SF_RETURN_IF_ERROR(multiply());
    }
  }
  return multiply();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s4g
