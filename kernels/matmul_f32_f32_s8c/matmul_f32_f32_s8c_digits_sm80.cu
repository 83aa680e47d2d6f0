// Design: a float row is three rows of 8-bit codes: X = round(x / s) has 23 bits with a power of two s for
// each row, in signed digits X = 65536 d0 + 256 d1 + d2. The kernels of INT8 activations multiply all rows of
// digits, with scales 65536 s, 256 s and s; sums of a row's three are added at the end, with what follows.
#include <algorithm>

#include "formats/base/status.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/digit_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

namespace s8c = matmul_f32_s8r_s8c;

constexpr char kName[] = "matmul_f32_f32_s8c";
constexpr int kDigits = 3, kSplitThreads = 256, kJoinThreads = 256;

constexpr int64_t Aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// codes [kDigits][m][k], scale [kDigits][m]; a row that holds what is not finite has NaN for its scale.
__global__ void __launch_bounds__(kSplitThreads)
    SplitRows(const float* x, int64_t k, int8_t* codes, float* scale) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int64_t m = gridDim.x;
  const float* const row = x + blockIdx.x * k;
  const auto for_each = [&](auto use) {
#pragma unroll 4
    for (int64_t at = static_cast<int64_t>(threadIdx.x) * 4; at < k; at += kSplitThreads * 4) {
      use(at, *reinterpret_cast<const float4*>(row + at));
    }
  };
  uint32_t largest = 0;
  for_each([&](int64_t, float4 v) {
    const auto size = [](float value) { return __float_as_uint(value) & 0x7fffffffu; };
    largest = max(largest, max(max(size(v.x), size(v.y)), max(size(v.z), size(v.w))));
  });
  largest = cuda::BlockReduce(largest, [](uint32_t a, uint32_t b) { return max(a, b); });
  const cuda::digits::ChunkScale unit = cuda::digits::ScaleOf(largest);
  for_each([&](int64_t at, float4 v) {
    uint32_t digit[kDigits];
    const float values[4] = {v.x, v.y, v.z, v.w};
    cuda::digits::Split(values, unit.inverse, digit);
#pragma unroll
    for (int d = 0; d < kDigits; ++d) {
      *reinterpret_cast<uint32_t*>(codes + (d * m + blockIdx.x) * k + at) = digit[d];
    }
  });
  if (threadIdx.x < kDigits) {
    const float by = threadIdx.x == 0 ? 65536.0f : threadIdx.x == 1 ? 256.0f : 1.0f;
    scale[threadIdx.x * m + blockIdx.x] = unit.scale * by;
  }
}

struct Sums {
  const float* of[cuda::kMaxLinears] = {};  // [kDigits][m][n] of each linear
};
// A thread an output of linear blockIdx.z.
__global__ void __launch_bounds__(kJoinThreads)
    JoinRows(const __grid_constant__ cuda::SimtParams p, const __grid_constant__ Sums sums) {
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int which = static_cast<int>(blockIdx.z);
  const int64_t n = p.linears.linear[which].n;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kJoinThreads + threadIdx.x, row = blockIdx.y;
  if (at >= n) return;
  const float* const from = sums.of[which] + row * n + at;
  const int64_t stride = p.m * n;
  cuda::simt::Finish<int8_t>(p, which, row, at, from[0] + (from[stride] + from[2 * stride]));
}

int64_t CodeBytes(int64_t m, int64_t k) { return Aligned(kDigits * m * k); }
int64_t ScaleBytes(int64_t m) { return Aligned(kDigits * m * 4); }
int64_t SumBytes(int64_t m, int64_t n) { return Aligned(kDigits * m * n * 4); }

absl::Status RunRows(const cuda::SimtParams& p, char* scratch, const cuda::DeviceInfo& device,
                     const cuda::Stream& stream) {
  int8_t* const codes = reinterpret_cast<int8_t*>(scratch);
  float* const scale = reinterpret_cast<float*>(scratch + CodeBytes(p.m, p.k));
  char* sums_at = scratch + CodeBytes(p.m, p.k) + ScaleBytes(p.m);
  s8c::CudaParams product = {
      .m = kDigits * p.m, .k = p.k, .x = codes, .x_scale = scale, .linears = p.linears};
  cuda::SimtParams rest = p;
  Sums sums;
  int64_t widest = 0;
  bool groups = false;
  for (int i = 0; i < p.linears.count; ++i) {
    cuda::Linear& w = product.linears.linear[i];
    groups = groups || w.group > 0;
    widest = std::max(widest, w.n);
    w.kept_w = w.kept_rows = nullptr;
    w.bias = nullptr;
    w.y = reinterpret_cast<float*>(sums_at);
    sums.of[i] = w.y;
    sums_at += SumBytes(p.m, w.n);
    rest.linears.linear[i].group = p.k;  // the channels' scales are in the sums
  }
  SF_RETURN_IF_ERROR(
      cuda::Launch(kName, SplitRows,
                   {.grid = dim3(static_cast<unsigned>(p.m)), .block = dim3(kSplitThreads), .overlaps = true},
                   stream, p.x, p.k, codes, scale));
  SF_RETURN_IF_ERROR(groups ? matmul_f32_s8r_sxg::RunCuda(product, device, stream)
                            : s8c::RunCuda(product, device, stream));
  return cuda::Launch(kName, JoinRows,
                      {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(widest, kJoinThreads)),
                                    static_cast<unsigned>(p.m), static_cast<unsigned>(p.linears.count)),
                       .block = dim3(kJoinThreads),
                       .overlaps = true},
                      stream, rest, sums);
}

// Rows at a time, in parts of about one size: as many digits as few_rows_wgmma.cuh takes at once share a
// reading of W, and more as long as their sums have room in so much memory.
int64_t RowsAtOnce(const cuda::SimtParams& p) {
  constexpr int64_t kSumBytes = int64_t{96} << 20, kMost = 128, kFewest = cuda::few::kMaxRows / kDigits;
  int64_t of_row = 0;
  for (int i = 0; i < p.linears.count; ++i) of_row += kDigits * p.linears.linear[i].n * 4;
  const int64_t most = std::clamp(kSumBytes / std::max<int64_t>(of_row, 1), kFewest, kMost);
  return cuda::CeilDiv(p.m, std::max<int64_t>(cuda::CeilDiv(p.m, most), 1));
}

}  // namespace

size_t DigitScratchBytes(const cuda::SimtParams& p) {
  const int64_t m = RowsAtOnce(p);
  int64_t bytes = CodeBytes(m, p.k) + ScaleBytes(m);
  for (int i = 0; i < p.linears.count; ++i) bytes += SumBytes(m, p.linears.linear[i].n);
  return static_cast<size_t>(bytes);
}

absl::Status RunDigits(const cuda::SimtParams& p, void* scratch, const cuda::DeviceInfo& device,
                       const cuda::Stream& stream) {
  if (p.linears.count == 0) return absl::OkStatus();
  const int64_t rows = RowsAtOnce(p);
  for (int64_t m0 = 0; m0 < p.m; m0 += rows) {
    cuda::SimtParams part = p;
    part.m = std::min(rows, p.m - m0);
    part.x = p.x + m0 * p.k;
    for (int i = 0; i < p.linears.count; ++i) part.linears.linear[i].y += m0 * p.linears.linear[i].n;
    SF_RETURN_IF_ERROR(RunRows(part, static_cast<char*>(scratch), device, stream));
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
