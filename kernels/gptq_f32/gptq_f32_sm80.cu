#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/gptq_f32/gptq_f32_cuda.h"

namespace spikefold::kernels::gptq_f32 {
namespace {

constexpr int kThreads = 256;
constexpr int kHalf = 32;  // columns whose errors reach each other at once: RowPanel's blocks
static_assert(kBlock == 2 * kHalf);

unsigned Blocks(int64_t count, int64_t per_block) {
  return static_cast<unsigned>(cuda::CeilDiv(count, per_block));
}

// 64-bit divisions are long; no row has 2^32 columns.
__device__ inline int64_t GroupOf(const Rows& r, int64_t column) {
  return static_cast<uint32_t>(column) / static_cast<uint32_t>(r.width);
}

__device__ inline bool IsSuper(const Rows& r, int64_t row, int64_t column) {
  if (r.super_begin == nullptr) return false;
  for (int32_t s = r.super_begin[row]; s < r.super_begin[row + 1]; ++s) {
    if (r.super_column[s] == column) return true;
  }
  return false;
}

__global__ void __launch_bounds__(kThreads) ClearFixedWeights(Rows r) {
  const int64_t row = blockIdx.x;
  for (int64_t c = threadIdx.x; c < r.k; c += kThreads) {
    if (r.kept[c] != 0) r.w[row * r.k + c] = 0;
  }
  if (r.super_begin == nullptr) return;
  for (int32_t s = r.super_begin[row] + static_cast<int>(threadIdx.x); s < r.super_begin[row + 1];
       s += kThreads) {
    r.w[row * r.k + r.super_column[s]] = 0;
  }
}

// A lane a row.
__global__ void __launch_bounds__(cuda::kWarp) RoundColumns(RoundParams p) {
  __shared__ float target[kBlock][cuda::kWarp + 1], left[kBlock][cuda::kWarp + 1];
  __shared__ float feedback[kBlock][kBlock];
  __shared__ int32_t order[kBlock];
  const Rows& r = p.rows;
  const int lane = static_cast<int>(threadIdx.x), count = static_cast<int>(p.count);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * cuda::kWarp;
  const int rows = static_cast<int>(r.n - row0 < cuda::kWarp ? r.n - row0 : cuda::kWarp);
  for (int c = lane; c < kBlock; c += cuda::kWarp) {
    order[c] = c < count ? p.order[p.first + c] : 0;
    for (int row = 0; row < rows; ++row) {
      target[c][row] = c < count ? p.target[(row0 + row) * p.target_stride + p.first + c] : 0.0f;
    }
    for (int j = 0; j < count; ++j) {
      if (c < j) feedback[j][c] = p.feedback[(p.first + j) * p.feedback_stride + p.first + c];
    }
  }
  __syncwarp();
  const int64_t row = row0 + lane;
  for (int half = 0; half < kBlock && lane < rows; half += kHalf) {
    const int end = count < half + kHalf ? count : half + kHalf;
    if (half > 0) {  // what the first half left, as one more block of the product behind `target`
      for (int j = half; j < end; ++j) {
        float sum = 0;
        for (int i = 0; i < half; ++i) sum = fmaf(feedback[j][i], left[i][lane], sum);
        target[j][lane] += sum;
      }
    }
    for (int i = half; i < end; ++i) {
      const int64_t column = order[i], group = row * r.groups + GroupOf(r, column);
      const float w = r.w[row * r.k + column], scale = r.scale[group];
      constexpr float kMagic = 0x1.8p23f;  // GridPoint()
      float code = fminf(fmaxf((w + target[i][lane]) / scale, r.lo[group]), r.hi[group]);
      code = (code + kMagic) - kMagic;
      float e = w - scale * code;
      if (IsSuper(r, row, column)) code = e = 0;
      r.code[row * r.k + column] = code;
      left[i][lane] = e;
      for (int j = i + 1; j < end; ++j) target[j][lane] += feedback[j][i] * e;
    }
  }
  __syncwarp();
  for (int c = lane; c < kBlock; c += cuda::kWarp) {
    for (int i = 0; i < rows; ++i) p.left[(row0 + i) * kBlock + c] = c < count ? left[c][i] : 0.0f;
  }
}

__global__ void __launch_bounds__(kThreads) ErrorsOfRows(Rows r) {
  const int64_t row = blockIdx.x;
  for (int64_t c = threadIdx.x; c < r.k; c += kThreads) {
    const int64_t at = row * r.k + c;
    r.error[at] = r.w[at] - r.scale[row * r.groups + GroupOf(r, c)] * r.code[at];
  }
}

// A block a row. Columns are looked at kThreads at a time: the first of them that wants to move does, and
// those after it are looked at again. So each sees the moves of all before it, as in a loop over columns.
__global__ void __launch_bounds__(kThreads) DescendRows(DescendParams p) {
  extern __shared__ float gradient[];  // [k]
  constexpr int kWarps = kThreads / cuda::kWarp, kNone = kThreads;
  __shared__ int first_of_warp[2][kWarps];
  __shared__ float change_of_warp[2][kWarps];
  const Rows& r = p.rows;
  const int64_t row = blockIdx.x, k = r.k;
  const int thread = static_cast<int>(threadIdx.x);
  const float *scale = r.scale + row * r.groups, *lo = r.lo + row * r.groups, *hi = r.hi + row * r.groups;
  float* const codes = r.code + row * k;
  for (int64_t c = thread; c < k; c += kThreads) {
    gradient[c] = r.product[row * k + c] + p.damping * r.error[row * k + c];
  }
  __syncthreads();
  int turn = 0;
  for (int pass = 0; pass < p.max_passes; ++pass) {
    bool moved = false;
    for (int64_t base = 0; base < k;) {
      const int64_t j = base + thread;
      bool wants = false;
      float code = 0, change = 0;
      if (j < k) {
        const int64_t g = GroupOf(r, j);
        const float inverse = 1.0f / scale[g], step = gradient[j] * inverse / p.curvature[j];
        if (fabsf(step) > 0.5f) {
          const float old = codes[j];
          code = fminf(fmaxf(rintf(old + step), lo[g]), hi[g]);
          wants = code != old && r.kept[j] == 0 && !IsSuper(r, row, j);
          change = scale[g] * (code - old);
        }
      }
      const unsigned votes = __ballot_sync(0xffffffffu, wants);
      const int warp = thread / cuda::kWarp, foremost = votes == 0 ? 0 : __ffs(static_cast<int>(votes)) - 1;
      if (thread % cuda::kWarp == foremost) {
        first_of_warp[turn][warp] = votes == 0 ? kNone : thread;
        change_of_warp[turn][warp] = change;
      }
      __syncthreads();
      int first = kNone;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) first = min(first, first_of_warp[turn][w]);
      if (first < kNone) change = change_of_warp[turn][first / cuda::kWarp];
      turn ^= 1;  // so that who is early does not write over what is still read
      if (first == kNone) {
        base += kThreads;
        continue;
      }
      const int64_t mover = base + first;
      if (thread == first) codes[mover] = code;
      const float* const h = p.h + mover * k;
      for (int64_t c = thread * 4; c < k; c += kThreads * 4) {
        const float4 line = *reinterpret_cast<const float4*>(h + c);
        float4 v = *reinterpret_cast<float4*>(gradient + c);
        v.x -= change * line.x;
        v.y -= change * line.y;
        v.z -= change * line.z;
        v.w -= change * line.w;
        *reinterpret_cast<float4*>(gradient + c) = v;
        if (mover >= c && mover < c + 4) gradient[mover] -= change * p.damping;
      }
      moved = true;
      base = mover + 1;
      __syncthreads();
    }
    if (!moved) break;
  }
}

// A thread a group of a row.
__global__ void __launch_bounds__(kThreads) SumGroups(GroupSumParams p) {
  const Rows& r = p.rows;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.num_rows * r.groups) return;
  const int64_t part = i / r.groups, group = i % r.groups, first = group * r.width;
  const int64_t at = (p.first_row + part) * r.k + first;
  const float *code = r.code + at, *other = p.other + at, *product = p.product + part * r.k + first;
  const double ridge = p.ridge_group < 0 || p.ridge_group == group ? p.ridge : 0.0;
  double sum = 0;
  for (int64_t c = 0; c < r.width; ++c) {
    sum += static_cast<double>(code[c]) *
           (static_cast<double>(product[c]) + ridge * static_cast<double>(other[c]));
  }
  p.to[part * p.to_stride + group] = sum;
}

__global__ void __launch_bounds__(kThreads) DotRows(Rows r, const float* x, double* to) {
  const int64_t row = blockIdx.x;
  double sum = 0;
  for (int64_t c = threadIdx.x; c < r.k; c += kThreads) {
    sum += static_cast<double>(x[row * r.k + c]) * static_cast<double>(r.product[row * r.k + c]);
  }
  sum = cuda::BlockReduce(sum, cuda::Sum());
  if (threadIdx.x == 0) to[row] = sum;
}

__global__ void __launch_bounds__(kThreads) CodesOfRows(Rows r, const float* zero, int8_t* to) {
  const int64_t row = blockIdx.x;
  for (int64_t c = threadIdx.x; c < r.k; c += kThreads) {
    to[row * r.k + c] =
        static_cast<int8_t>(static_cast<int>(r.code[row * r.k + c] + zero[row * r.groups + GroupOf(r, c)]));
  }
}

__global__ void __launch_bounds__(kThreads) MirrorRows(float* h, int64_t k) {
  __shared__ float tile[cuda::kWarp][cuda::kWarp + 1];
  const int64_t r0 = static_cast<int64_t>(blockIdx.x) * cuda::kWarp,
                c0 = static_cast<int64_t>(blockIdx.y) * cuda::kWarp;
  if (c0 > r0) return;  // writes below the diagonal what lies above it
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp,
            warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  for (int i = warp; i < cuda::kWarp; i += kThreads / cuda::kWarp) {
    if (c0 + i < k && r0 + lane < k) tile[i][lane] = h[(c0 + i) * k + r0 + lane];
  }
  __syncthreads();
  for (int i = warp; i < cuda::kWarp; i += kThreads / cuda::kWarp) {
    if (r0 + i < k && c0 + lane < r0 + i) h[(r0 + i) * k + c0 + lane] = tile[lane][i];
  }
}

__global__ void __launch_bounds__(kThreads) LoadLower(FactorParams p) {
  const int64_t row = blockIdx.x, from = p.order[p.m - 1 - row];
  const double own = static_cast<double>(p.h[from * p.k + from]);
  for (int64_t c = threadIdx.x; c <= row; c += kThreads) {
    const int64_t column = p.order[p.m - 1 - c];
    double value = static_cast<double>(p.h[from * p.k + column]);
    if (c == row) value = own == 0 ? p.dead : own + p.damping;
    p.a[row * p.stride + c] = value;
  }
}

__global__ void __launch_bounds__(kThreads) FeedbackRows(FactorParams p) {
  const int64_t j = blockIdx.x, column = p.m - 1 - j;
  const double root = p.a[column * p.stride + column];
  for (int64_t i = threadIdx.x; i < p.feedback_stride; i += kThreads) {
    p.feedback[j * p.feedback_stride + i] =
        i < j ? static_cast<float>(p.a[(p.m - 1 - i) * p.stride + column] / root) : 0.0f;
  }
}

__global__ void __launch_bounds__(kThreads)
    ReadDiagonal(const float* h, int64_t k, float damping, float* diagonal, float* curvature) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= k) return;
  const float value = h[i * k + i];
  if (diagonal != nullptr) diagonal[i] = value;
  if (curvature != nullptr) curvature[i] = value + damping;
}

cuda::Shape ARowABlock(int64_t rows) {
  return {.grid = dim3(static_cast<unsigned>(rows)), .block = dim3(kThreads)};
}

}  // namespace

absl::Status ClearFixed(const Rows& r, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 ClearFixed", ClearFixedWeights, ARowABlock(r.n), stream, r);
}

absl::Status RoundBlock(const RoundParams& p, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 RoundBlock", RoundColumns,
                      {.grid = dim3(Blocks(p.rows.n, cuda::kWarp)), .block = dim3(cuda::kWarp)}, stream, p);
}

absl::Status Errors(const Rows& r, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 Errors", ErrorsOfRows, ARowABlock(r.n), stream, r);
}

int64_t MaxColumns(int64_t max_shared_bytes) {
  constexpr int64_t kOwn = 4 << 10;  // what the kernel declares, generously
  return (max_shared_bytes - kOwn) / static_cast<int64_t>(sizeof(float)) / 4 * 4;
}

absl::Status Descend(const DescendParams& p, const cuda::Stream& stream) {
  cuda::Shape shape = ARowABlock(p.rows.n);
  shape.shared_bytes = p.rows.k * static_cast<int64_t>(sizeof(float));
  return cuda::Launch("gptq_f32 Descend", DescendRows, shape, stream, p);
}

absl::Status GroupSums(const GroupSumParams& p, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 GroupSums", SumGroups,
                      {.grid = dim3(Blocks(p.num_rows * p.rows.groups, kThreads)), .block = dim3(kThreads)},
                      stream, p);
}

absl::Status RowDots(const Rows& r, const float* x, double* to, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 RowDots", DotRows, ARowABlock(r.n), stream, r, x, to);
}

absl::Status StoreCodes(const Rows& r, const float* zero, int8_t* to, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 StoreCodes", CodesOfRows, ARowABlock(r.n), stream, r, zero, to);
}

absl::Status Mirror(float* h, int64_t k, const cuda::Stream& stream) {
  const unsigned tiles = Blocks(k, cuda::kWarp);
  return cuda::Launch("gptq_f32 Mirror", MirrorRows, {.grid = dim3(tiles, tiles), .block = dim3(kThreads)},
                      stream, h, k);
}

absl::Status LoadFactor(const FactorParams& p, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 LoadFactor", LoadLower, ARowABlock(p.m), stream, p);
}

absl::Status StoreFeedback(const FactorParams& p, const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 StoreFeedback", FeedbackRows, ARowABlock(p.m), stream, p);
}

absl::Status Diagonal(const float* h, int64_t k, float damping, float* diagonal, float* curvature,
                      const cuda::Stream& stream) {
  return cuda::Launch("gptq_f32 Diagonal", ReadDiagonal,
                      {.grid = dim3(Blocks(k, kThreads)), .block = dim3(kThreads)}, stream, h, k, damping,
                      diagonal, curvature);
}

}  // namespace spikefold::kernels::gptq_f32
