// Products of few rows, bound by the bytes of W: how blocks stream W past rows that lie in shared memory.
// As many blocks as the machine holds go through the tiles of 16 channels; the warps of a block take turns
// along K, and each has several steps of codes under way, those of its next tile included. Codes are the left
// operand of mma.sync m16n8k32, rows (or parts of rows) its right one: columns.
// What the operands are is up to Traits:
//   Params                        with m, k and linears
//   Sum                           int32_t or float: what is added up
//   kColumns                      columns of a row
//   kMetaBytes                    of a chunk of 64 columns of W and a pair of columns, in shared memory
//   kSteps, kBlocks               steps under way; blocks of a multiprocessor, where shared memory allows
//   kTail, NumKept(p), KeptX(p)   whether Finish gets kept columns in shared memory; how many; [m, NumKept]
//   Stage(p, layout, shared)      fills columns and meta; called by all threads
//   Codes(p, tile, warp, lane)    .Load(i, Step&): a lane's codes of the warp's step i; kChunks chunks a step
//   Add(step, chunk, x, meta, acc)   x: the lane's 16 bytes of its column; meta: of its pair of columns
//   Finish(p, linear, row, n, sums, kept)   sums [kColumns] of one output
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/simt_matmul.cuh"

namespace spikefold::kernels::cuda::stream {

inline constexpr int kWarps = 8, kThreads = kWarps * kWarp;
inline constexpr int kChannels = 16;      // of a tile
inline constexpr int kChunk = 64;         // columns of W
inline constexpr int64_t kMaxKept = 128;  // kept columns that shared memory has room for

// Where things lie in shared memory.
struct Layout {
  int columns = 0, pairs = 0, chunks = 0;
  int stride = 0;  // bytes of a column: an odd multiple of 64, so that columns fall into other banks
  int meta = 0, partial = 0, kept = 0, kept_x = 0, bytes = 0;
};
// Kept columns of one output: of W, kChannels apart (null: none), and of x.
struct Kept {
  const uint16_t* w = nullptr;
  const float* x = nullptr;
};
template <typename Traits>
__host__ __device__ inline Layout LayoutOf(const typename Traits::Params& p) {
  Layout l;
  l.columns = Traits::kColumns * static_cast<int>(p.m);
  l.pairs = (l.columns + 1) / 2;
  l.chunks = static_cast<int>(CeilDiv(p.k, kChunk));
  l.stride = (l.chunks | 1) * kChunk;
  l.meta = l.columns * l.stride;
  l.partial = l.meta + l.chunks * l.pairs * Traits::kMetaBytes;
  l.kept = l.partial + 2 * kWarps * l.columns * kChannels * 4;
  l.bytes = l.kept;
  l.kept_x = l.kept;
  if constexpr (Traits::kTail) {
    const int num = static_cast<int>(Traits::NumKept(p));
    l.kept_x += 2 * num * kChannels * 2;
    l.bytes = l.kept_x + static_cast<int>(p.m) * num * 4;
  }
  return l;
}
template <typename Traits>
inline bool Fits(const typename Traits::Params& p) {
  if constexpr (Traits::kTail) {
    if (Traits::NumKept(p) > kMaxKept) return false;
  }
  return p.m > 0 && Traits::kColumns * p.m <= Traits::kMaxColumns &&
         LayoutOf<Traits>(p).bytes <= MaxSharedBytes();
}

// Starts copying the kept columns [num][kChannels] of a tile's channels.
__device__ inline void LoadKept(const Linear& w, int64_t num, int64_t n0, uint16_t* to) {
  const bool whole = w.kept_stride % 8 == 0 && n0 + kChannels <= w.n;
  const int count = static_cast<int>(num) * kChannels;
  if (whole) {
    for (int i = static_cast<int>(threadIdx.x) * 8; i < count; i += kThreads * 8) {
      const uint16_t* const from = w.kept_w + i / kChannels * w.kept_stride + n0 + i % kChannels;
      CopyAsync16(SharedAddress(to + i), from, true);
    }
    CommitCopies();
    return;
  }
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const int64_t n = n0 + i % kChannels;
    to[i] = n < w.n ? w.kept_w[i / kChannels * w.kept_stride + n] : uint16_t{0};
  }
}

template <typename Traits, int kTiles>
__global__ void __launch_bounds__(kThreads, Traits::kBlocks)
    few_rows_sm80(const __grid_constant__ typename Traits::Params p, int num_tiles) {
  using Codes = typename Traits::Codes;
  using Sum = typename Traits::Sum;
  constexpr int kChunks = Codes::kChunks, kSteps = Traits::kSteps;
  extern __shared__ __align__(16) char shared[];
  const Layout l = LayoutOf<Traits>(p);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int all_steps = (l.chunks + kChunks - 1) / kChunks;
  const int steps = (all_steps - warp + kWarps - 1) / kWarps;  // of this warp: warp, warp + 8, ...; 0 if few
  const int blocks = static_cast<int>(gridDim.x);

  Codes next(p, static_cast<int>(blockIdx.x), warp, lane);
  typename Codes::Step ring[kSteps];
#pragma unroll
  for (int d = 0; d < kSteps; ++d) {
    if (d < steps) next.Load(d, ring[d]);
  }
  LetNextStart();
  WaitForInputs();  // codes do not depend on the kernel before
  Traits::Stage(p, l, shared);
  if constexpr (Traits::kTail) {
    float* const to = reinterpret_cast<float*>(shared + l.kept_x);
    for (int i = static_cast<int>(threadIdx.x); i < (l.bytes - l.kept_x) / 4; i += kThreads)
      to[i] = Traits::KeptX(p)[i];
  }
  __syncthreads();

  Sum acc[kTiles][4];
  const auto multiply = [&](int step, const typename Codes::Step& codes) {
#pragma unroll
    for (int h = 0; h < kChunks; ++h) {
      const int chunk = (step * kWarps + warp) * kChunks + h;
      if (kChunks > 1 && chunk >= l.chunks) continue;
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
        const int column = c * 8 + g, pair = c * 4 + t;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (column < l.columns) {
          x = *reinterpret_cast<const uint4*>(shared + column * l.stride + chunk * kChunk + t * 16);
        }
        float4 meta = make_float4(0, 0, 0, 0);
        if (Traits::kMetaBytes > 0 && pair < l.pairs) {
          meta = *reinterpret_cast<const float4*>(shared + l.meta + (chunk * l.pairs + pair) * 16);
        }
        Traits::Add(codes, h, x, meta, acc[c]);
      }
    }
  };
  int buffer = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < num_tiles; tile += blocks, buffer ^= 1) {
    const Codes here = next;
    const bool last = tile + blocks >= num_tiles;
    if (!last) next = Codes(p, tile + blocks, warp, lane);
    int64_t index = tile;
    const int which = simt::LinearAt(p.linears, kChannels, index);
    const Linear& w = p.linears.linear[which];
    uint16_t* kept = nullptr;
    if constexpr (Traits::kTail) {
      if (Traits::NumKept(p) > 0 && w.kept_w != nullptr) {
        kept = reinterpret_cast<uint16_t*>(shared + l.kept) + buffer * Traits::NumKept(p) * kChannels;
        LoadKept(w, Traits::NumKept(p), index * kChannels, kept);
      }
    }
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[c][e] = 0;
    }
    for (int s = 0; s < steps; s += kSteps) {
#pragma unroll
      for (int d = 0; d < kSteps; ++d) {
        if (s + d < steps) multiply(s + d, ring[d]);
        if (s + kSteps < steps) {
          if (s + kSteps + d < steps) here.Load(s + kSteps + d, ring[d]);
        } else if (!last && d < steps) {
          next.Load(d, ring[d]);
        }
      }
    }
    // Two buffers: one is read while the other is filled.
    Sum* const partial = reinterpret_cast<Sum*>(shared + l.partial) + buffer * kWarps * l.columns * kChannels;
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = c * 8 + t * 2 + e % 2;
        if (column < l.columns) {
          partial[(warp * l.columns + column) * kChannels + g + e / 2 * 8] = acc[c][e];
        }
      }
    }
    if constexpr (Traits::kTail) WaitCopies<0>();
    __syncthreads();
    // Warps take turns, so that none falls behind.
    const int turn = static_cast<int>(threadIdx.x) ^ (tile / blocks % kWarps * kWarp);
    for (int i = turn; i < kChannels * static_cast<int>(p.m); i += kThreads) {
      const int row = i / kChannels, channel = i % kChannels;
      Sum sums[Traits::kColumns] = {};
#pragma unroll
      for (int v = 0; v < kWarps; ++v) {
#pragma unroll
        for (int d = 0; d < Traits::kColumns; ++d) {
          sums[d] += partial[(v * l.columns + row * Traits::kColumns + d) * kChannels + channel];
        }
      }
      const int64_t n = index * kChannels + channel;
      if (n >= w.n) continue;
      Kept columns;
      if constexpr (Traits::kTail) {
        if (kept != nullptr) {
          columns = {kept + channel,
                     reinterpret_cast<const float*>(shared + l.kept_x) + row * Traits::NumKept(p)};
        }
      }
      Traits::Finish(p, which, row, n, sums, columns);
    }
  }
}

// Requires Fits().
template <typename Traits>
absl::Status Run(const char* name, const typename Traits::Params& p, const Stream& stream) {
  int64_t tiles = 0;
  for (int i = 0; i < p.linears.count; ++i) tiles += CeilDiv(p.linears.linear[i].n, kChannels);
  const Layout l = LayoutOf<Traits>(p);
  const int64_t resident = std::min<int64_t>(BlocksOfShared(l.bytes), Traits::kBlocks) * NumSms();
  // All blocks get as many tiles, or one less.
  const int64_t rounds = CeilDiv(tiles, resident);
  const Shape shape = {.grid = dim3(static_cast<unsigned>(CeilDiv(tiles, rounds))),
                       .block = dim3(kThreads),
                       .shared_bytes = l.bytes,
                       .overlaps = true};
  const int count = static_cast<int>(tiles);
  if constexpr (Traits::kMaxColumns > 8) {
    if (l.columns > 8) return Launch(name, few_rows_sm80<Traits, 2>, shape, stream, p, count);
  }
  return Launch(name, few_rows_sm80<Traits, 1>, shape, stream, p, count);
}

// 8-bit codes as they lie: a lane's 16 of channels g and g + 8 go to two multiplications, permuted as the
// columns that lie in order. A step is a cache line of each channel.
struct Codes8 {
  static constexpr int kChunks = 2;
  struct Step {
    uint4 low[kChunks], high[kChunks];
  };
  template <typename Params>
  __device__ Codes8(const Params& p, int tile, int warp, int lane) {
    int64_t index = tile;
    const Linear& w = p.linears.linear[simt::LinearAt(p.linears, kChannels, index)];
    const int64_t n = index * kChannels + lane / 4, last = w.n - 1;
    const int column = warp * kChunks * kChunk + lane % 4 * 16;
    const int8_t* const codes = static_cast<const int8_t*>(w.w) + column;
    low = codes + min(n, last) * w.w_stride;
    high = codes + min(n + 8, last) * w.w_stride;
    left = static_cast<int>(w.w_stride) - column;
  }
  __device__ void Load(int step, Step& to) const {
#pragma unroll
    for (int h = 0; h < kChunks; ++h) {
      const int at = (step * kWarps * kChunks + h) * kChunk;
      const bool inside = at < left;
      to.low[h] = inside ? LoadStreaming16(low + at) : make_uint4(0, 0, 0, 0);
      to.high[h] = inside ? LoadStreaming16(high + at) : make_uint4(0, 0, 0, 0);
    }
  }
  __device__ static void Multiply(const Step& step, int h, const uint4& x, int32_t (&sum)[4]) {
    const uint4 &a = step.low[h], &b = step.high[h];
    const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
    MmaS8(sum, first, x.x, x.y);
    MmaS8(sum, second, x.z, x.w);
  }

  const int8_t *low, *high;
  int left;  // bytes of a row from this lane's first column on
};

}  // namespace spikefold::kernels::cuda::stream
