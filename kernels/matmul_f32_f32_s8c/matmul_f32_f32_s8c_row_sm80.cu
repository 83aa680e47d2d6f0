// Design: one row in three digits past row-major codes, four products an instruction of the CUDA cores, codes
// from memory to registers (kernels/cuda/row_stream.cuh). A lane has 16 columns of a step, with a power of
// two of their own. As many blocks as the device holds make x once; their warps go from one group of channels
// to the next, and what they load runs ahead over the ends of groups.
#include <algorithm>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/digit_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/row_stream.cuh"
#include "kernels/cuda/simt_matmul.cuh"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"

namespace spikefold::kernels::matmul_f32_f32_s8c {
namespace {

namespace row_stream = cuda::row_stream;
using row_stream::kLaneBytes;
using row_stream::kStepBytes;
using row_stream::kThreads;
using row_stream::kWarps;

constexpr char kName[] = "matmul_f32_f32_s8c";
constexpr int kDigits = cuda::digits::kDigits;
constexpr int kChannels = 2;  // of a group: a warp reads them side by side
// Of x in shared memory: a step's digits [digit][lane][16 columns], behind all of them scales [step][lane].
constexpr int64_t kStepX = kDigits * kStepBytes, kStepScales = cuda::kWarp * int64_t{sizeof(float)};
int64_t SharedBytes(int64_t k) { return cuda::CeilDiv(k, kStepBytes) * (kStepX + kStepScales); }

// By all threads, 16 columns each; zeros behind k.
__device__ void MakeDigits(const float* x, int k, int steps, char* digits, float* scales) {
  for (int i = static_cast<int>(threadIdx.x); i < steps * cuda::kWarp; i += kThreads) {
    float v[4][4] = {};
    uint32_t largest = 0;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      if (i * kLaneBytes < k) {
        const uint4 bits = cuda::LoadCached16(x + i * kLaneBytes + 4 * q);
        v[q][0] = __uint_as_float(bits.x), v[q][1] = __uint_as_float(bits.y);
        v[q][2] = __uint_as_float(bits.z), v[q][3] = __uint_as_float(bits.w);
      }
#pragma unroll
      for (int b = 0; b < 4; ++b) largest = max(largest, __float_as_uint(v[q][b]) & 0x7fffffffu);
    }
    const cuda::digits::ChunkScale scale = cuda::digits::ScaleOf(largest);
    uint32_t words[4][kDigits];
#pragma unroll
    for (int q = 0; q < 4; ++q) cuda::digits::Split(v[q], scale.inverse, words[q]);
    const int step = i / cuda::kWarp, lane = i % cuda::kWarp;
    uint4* const to = reinterpret_cast<uint4*>(digits + step * kStepX) + lane;
#pragma unroll
    for (int d = 0; d < kDigits; ++d) {
      to[d * cuda::kWarp] = make_uint4(words[0][d], words[1][d], words[2][d], words[3][d]);
    }
    scales[i] = scale.scale;
  }
}

__device__ int Dot16(const uint4& a, const uint4& b) {
  int sum = __dp4a(static_cast<int>(a.x), static_cast<int>(b.x), 0);
  sum = __dp4a(static_cast<int>(a.y), static_cast<int>(b.y), sum);
  sum = __dp4a(static_cast<int>(a.z), static_cast<int>(b.z), sum);
  return __dp4a(static_cast<int>(a.w), static_cast<int>(b.w), sum);
}

// Where a warp loads: a step of some neighbouring channels. Channels behind the last are the last again.
template <bool kGroups>
struct Cursor {
  struct Step {
    uint4 words[kChannels];
    float scale[kGroups ? kChannels : 1];
  };
  __device__ Cursor(const cuda::SimtParams& p, int first, int stride, int all, int steps)
      : p(p), group(first), stride(stride), all(all), steps(steps) {
    Go();
  }
  __device__ void Go() {
    if (group >= all) return;
    int64_t index = group;
    const cuda::Linear& w = p.linears.linear[cuda::simt::LinearAt(p.linears, kChannels, index)];
    const int64_t n0 = index * kChannels, groups = kGroups ? p.k / w.group : 0;
    const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
    left = static_cast<int>(w.w_stride) - lane * kLaneBytes;
    inverse = kGroups ? static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint64_t>(w.group) + 1) : 0;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const int64_t n = min(n0 + c, w.n - 1);
      from[c] = static_cast<const char*>(w.w) + n * w.w_stride + lane * kLaneBytes;
      if constexpr (kGroups) scales[c] = w.w_scale + n * groups;
    }
  }
  __device__ void Next(Step& to) {
    if (group >= all) return;
    const bool inside = step * kStepBytes < left;
    const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp;
    const int of = kGroups ? static_cast<int>(__umulhi(step * kStepBytes + lane * kLaneBytes, inverse)) : 0;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      to.words[c] = inside ? cuda::LoadStreaming16(from[c] + step * kStepBytes) : make_uint4(0, 0, 0, 0);
      if constexpr (kGroups) to.scale[c] = inside ? __ldg(scales[c] + of) : 0.0f;
    }
    if (++step == steps) {
      step = 0;
      group += stride;
      Go();
    }
  }

  const cuda::SimtParams& p;
  int group, stride, all, steps, step = 0, left = 0;
  uint32_t inverse = 0;
  const char* from[kChannels] = {};
  const float* scales[kGroups ? kChannels : 1] = {};
};

template <int kDepth, int kBlocks, bool kGroups>
__global__ void __launch_bounds__(kThreads, kBlocks)
    matmul_f32_f32_s8c_row_sm80(const __grid_constant__ cuda::SimtParams p, int all) {
  using Loads = Cursor<kGroups>;
  extern __shared__ __align__(16) char digits[];
  const int k = static_cast<int>(p.k), steps = (k + kStepBytes - 1) / kStepBytes;
  float* const x_scales = reinterpret_cast<float*>(digits + steps * kStepX);
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp,
            warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int first = static_cast<int>(blockIdx.x) * kWarps + warp;
  const int stride = static_cast<int>(gridDim.x) * kWarps;
  Loads loads(p, first, stride, all, steps);
  typename Loads::Step ring[kDepth];
#pragma unroll
  for (int d = 0; d < kDepth; ++d) loads.Next(ring[d]);
  cuda::LetNextStart();
  cuda::WaitForInputs();  // codes do not depend on the kernel before
  MakeDigits(p.x, k, steps, digits, x_scales);
  __syncthreads();

  int step = 0, group = first;
  float acc[kChannels] = {};
#pragma unroll 1
  while (group < all) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (group >= all) break;
      const uint4* const x = reinterpret_cast<const uint4*>(digits + step * kStepX) + lane;
      const uint4 x0 = x[0], x1 = x[cuda::kWarp], x2 = x[2 * cuda::kWarp];
      const float scale = x_scales[step * cuda::kWarp + lane];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const uint4& w = ring[d].words[c];
        const int high = 256 * Dot16(w, x0) + Dot16(w, x1), low = Dot16(w, x2);
        const float sum = fmaf(static_cast<float>(high), 256.0f, static_cast<float>(low));
        acc[c] = fmaf(kGroups ? scale * ring[d].scale[kGroups ? c : 0] : scale, sum, acc[c]);
      }
      loads.Next(ring[d]);
      if (++step < steps) continue;
      int64_t index = group;
      const int linear = cuda::simt::LinearAt(p.linears, kChannels, index);
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        const float sum = row_stream::WarpSum(acc[c]);
        const int64_t n = index * kChannels + c;
        if (lane == c && n < p.linears.linear[linear].n) {
          cuda::simt::Finish<int8_t>(p, linear, 0, n, sum);
        }
        acc[c] = 0;
      }
      step = 0;
      group += stride;
    }
  }
}

// How many groups of channels a warp gets, if `blocks` of a multiprocessor share them evenly.
int64_t RoundsOf(int64_t all, int64_t blocks) { return cuda::CeilDiv(all, blocks * cuda::NumSms() * kWarps); }

template <int kDepth, int kBlocks, bool kGroups>
absl::Status Launch(const cuda::SimtParams& p, int64_t all, int64_t held, const cuda::Stream& stream) {
  // All warps get as many groups, or one less.
  const int64_t rounds = RoundsOf(all, std::min<int64_t>(kBlocks, held));
  return cuda::Launch(kName, matmul_f32_f32_s8c_row_sm80<kDepth, kBlocks, kGroups>,
                      {.grid = dim3(static_cast<unsigned>(cuda::CeilDiv(all, rounds * kWarps))),
                       .block = dim3(kThreads),
                       .shared_bytes = SharedBytes(p.k),
                       .overlaps = true},
                      stream, p, static_cast<int>(all));
}

}  // namespace

bool TakesRow(const cuda::SimtParams& p) {
  constexpr int64_t kLeastColumns = 2048;  // a short row leaves lanes idle
  // Kept columns are read by one lane, one after the other.
  return p.m == 1 && p.rows == nullptr && p.tail.num_kept == 0 && p.k % kLaneBytes == 0 &&
         p.k >= kLeastColumns && SharedBytes(p.k) <= cuda::MaxSharedBytes();
}
absl::Status RunRow(const cuda::SimtParams& p, const cuda::Stream& stream) {
  int64_t all = 0;
  for (int i = 0; i < p.linears.count; ++i) all += cuda::CeilDiv(p.linears.linear[i].n, kChannels);
  if (all == 0) return absl::OkStatus();
  // Two blocks a multiprocessor have more under way; three are faster where two would be idle for longer.
  const int64_t held = cuda::BlocksOfShared(SharedBytes(p.k));
  const bool three = held >= 3 && 3 * RoundsOf(all, 3) <= 2 * RoundsOf(all, 2);
  if (p.linears.linear[0].group > 0) {
    return three ? Launch<3, 3, true>(p, all, held, stream) : Launch<6, 2, true>(p, all, held, stream);
  }
  return three ? Launch<4, 3, false>(p, all, held, stream) : Launch<6, 2, false>(p, all, held, stream);
}

}  // namespace spikefold::kernels::matmul_f32_f32_s8c
