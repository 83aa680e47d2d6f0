#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_decode_cuda.h"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ldst.cuh"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

constexpr int kThreads = 256;
constexpr int kKeys = 4;  // that a team of lanes takes at a time: loads in flight

// Teams of kLanes lanes share a key; each lane owns kVectors * 4 of its columns.
template <int kMaxDim>
struct Teams {
  static constexpr int kLanes = kMaxDim <= 64 ? 16 : 32;
  static constexpr int kVectors = (kMaxDim + 4 * kLanes - 1) / (4 * kLanes);
  static constexpr int kCount = kThreads / kLanes;
};

__device__ float4 Load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ float Dot(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}
__device__ float4 Axpy(float w, float4 b, float4 c) {
  return make_float4(fmaf(w, b.x, c.x), fmaf(w, b.y, c.y), fmaf(w, b.z, c.z), fmaf(w, b.w, c.w));
}
__device__ float4 Times(float4 a, float by) { return make_float4(a.x * by, a.y * by, a.z * by, a.w * by); }

// The head of q or k at a position, column i.
__device__ float Rotated(const float* x, const DecodeParams& p, int64_t position, int i) {
  const int half = static_cast<int>(p.head_dim) / 2;
  if (p.cos == nullptr) return x[i];
  const int j = i < half ? i : i - half;
  const float c = p.cos[position * half + j], s = p.sin[position * half + j];
  return i < half ? fmaf(-x[j + half], s, x[j] * c) : fmaf(x[j + half], c, x[j] * s);
}

// Maximum, total and weighted values of some keys; nothing seen: -infinity, 0, 0.
template <int kVectors>
struct Softmax {
  float max = -INFINITY, total = 0;
  float4 sum[kVectors] = {};
};

// kLean: with no more registers than three blocks of a multiprocessor could have, so that one finds room
// beside a block of the linears before or after.
template <int kMaxDim, int kHeads, bool kLean>
__global__ void __launch_bounds__(kThreads, kLean ? 3 : 1)
    attention_f32_f32_decode_sm80(const __grid_constant__ DecodeParams p) {
  using T = Teams<kMaxDim>;
  constexpr int kTeams = T::kCount, kStride = kMaxDim + 2;  // of what a team leaves: values, maximum, total
  extern __shared__ __align__(16) float shared[];
  float* const q = shared;                                                          // [kHeads][kMaxDim]
  float *const fresh_k = q + kHeads * kMaxDim, *const fresh_v = fresh_k + kMaxDim;  // the new row
  float* const left = fresh_v + kMaxDim;                    // [kHeads][kTeams][kStride]
  float* const weights = left + kHeads * kTeams * kStride;  // [kHeads][kTeams]
  float* const largest = weights + kHeads * kTeams;         // [kHeads]
  cuda::LetNextStart();
  const int d = static_cast<int>(p.head_dim), thread = static_cast<int>(threadIdx.x);
  const int heads = static_cast<int>(p.num_heads / p.num_kv_heads);  // at most kHeads
  const int64_t kv_head = blockIdx.y, split = blockIdx.x, sequence = blockIdx.z;
  const int64_t head0 = sequence * p.num_heads + kv_head * heads;  // among the heads of all sequences
  const int64_t new_row = (sequence * p.num_kv_heads + kv_head) * d;
  const int64_t position = p.positions[sequence], width = p.num_kv_heads * d;
  const DecodeCache cache = p.caches[sequence];
  float* const cache_k = cache.k + p.layer * cache.layer_floats + kv_head * d;  // of this head
  float* const cache_v = cache.v + p.layer * cache.layer_floats + kv_head * d;
  const int64_t oldest = p.window > 0 && position >= p.window ? position - p.window + 1 : 0;
  const int64_t begin = max(oldest, split * kSplitKeys), end = min(position + 1, (split + 1) * kSplitKeys);

  // What earlier steps left, and the host with this one, does not depend on the kernel before: it comes while
  // that works, the first keys to registers, all others to L2.
  const int team = thread / T::kLanes, lane = thread % T::kLanes;
  constexpr int kAtOnce = kTeams * kKeys;
  // Rows of some keys; the new one's lies in shared memory.
  const auto load = [&](const float* rows, const float* fresh, int64_t key, float4(&to)[T::kVectors]) {
#pragma unroll
    for (int c = 0; c < T::kVectors; ++c) {
      const int column = 4 * (lane + c * T::kLanes);
      to[c] = make_float4(0, 0, 0, 0);
      if (key < end && column < d) {
        if (key < position) to[c] = Load4(rows + key * width + column);
        if (key == position && fresh != nullptr) to[c] = Load4(fresh + column);
      }
    }
  };
  float4 k[kKeys][T::kVectors], v[kKeys][T::kVectors];
#pragma unroll
  for (int j = 0; j < kKeys; ++j) load(cache_k, nullptr, begin + team + j * kTeams, k[j]);
#pragma unroll
  for (int j = 0; j < kKeys; ++j) load(cache_v, nullptr, begin + team + j * kTeams, v[j]);
  {
    constexpr int kFloats = cuda::kLineBytes / static_cast<int>(sizeof(float));
    const int lines = (d + kFloats - 1) / kFloats;
    const int all = 2 * lines * static_cast<int>(max(min(end, position) - begin - kAtOnce, int64_t{0}));
    for (int i = thread; i < all; i += kThreads) {
      const int key = i / (2 * lines), line = i % (2 * lines);
      const float* const row = (line < lines ? cache_k : cache_v) + (begin + kAtOnce + key) * width;
      cuda::PrefetchLine(row + line % lines * kFloats);
    }
    if (p.cos != nullptr && thread * kFloats < d / 2) {
      cuda::PrefetchLine(p.cos + position * (d / 2) + thread * kFloats);
      cuda::PrefetchLine(p.sin + position * (d / 2) + thread * kFloats);
    }
  }
  cuda::WaitForInputs();

  for (int i = thread; i < kHeads * kMaxDim; i += kThreads) {
    const int h = i / kMaxDim, column = i % kMaxDim;
    q[i] = h < heads && column < d ? Rotated(p.q + (head0 + h) * d, p, position, column) : 0.0f;
  }
  if (position / kSplitKeys == split) {
    for (int i = thread; i < d; i += kThreads) {
      const float new_k = Rotated(p.new_k + new_row, p, position, i), new_v = p.new_v[new_row + i];
      fresh_k[i] = cache_k[position * width + i] = new_k;
      fresh_v[i] = cache_v[position * width + i] = new_v;
    }
  }
  __syncthreads();

  Softmax<T::kVectors> state[kHeads];
  for (int64_t key0 = begin; key0 < end; key0 += kAtOnce) {
#pragma unroll
    for (int j = 0; j < kKeys; ++j) {
      const int64_t key = key0 + team + j * kTeams;
      if (key0 > begin || key == position) {
        load(cache_k, fresh_k, key, k[j]);
        load(cache_v, fresh_v, key, v[j]);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float score[kKeys] = {};
#pragma unroll
      for (int c = 0; c < T::kVectors; ++c) {
        const float4 a = Load4(q + h * kMaxDim + 4 * (lane + c * T::kLanes));
#pragma unroll
        for (int j = 0; j < kKeys; ++j) score[j] = Dot(a, k[j][c], score[j]);
      }
      float max = state[h].max;
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
#pragma unroll
        for (int offset = T::kLanes / 2; offset > 0; offset /= 2) {
          score[j] += __shfl_xor_sync(0xffffffffu, score[j], offset);
        }
        score[j] = key0 + team + j * kTeams < end ? score[j] * p.scale : -INFINITY;
        max = fmaxf(max, score[j]);
      }
      const float base = max == -INFINITY ? 0.0f : max;
      const float shrink = expf(state[h].max - base);
      state[h].max = max;
      state[h].total *= shrink;
#pragma unroll
      for (int c = 0; c < T::kVectors; ++c) state[h].sum[c] = Times(state[h].sum[c], shrink);
#pragma unroll
      for (int j = 0; j < kKeys; ++j) {
        const float weight = expf(score[j] - base);
        state[h].total += weight;
#pragma unroll
        for (int c = 0; c < T::kVectors; ++c) state[h].sum[c] = Axpy(weight, v[j][c], state[h].sum[c]);
      }
    }
  }

#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float* const to = left + (h * kTeams + team) * kStride;
#pragma unroll
    for (int c = 0; c < T::kVectors; ++c) {
      const int column = 4 * (lane + c * T::kLanes);
      const float4 s = state[h].sum[c];
      if (column < kMaxDim) {
        to[column] = s.x;
        to[column + 1] = s.y;
        to[column + 2] = s.z;
        to[column + 3] = s.w;
      }
    }
    if (lane == 0) {
      to[kMaxDim] = state[h].max;
      to[kMaxDim + 1] = state[h].total;
    }
  }
  __syncthreads();

  // What the teams' values count, once for all columns.
  for (int i = thread; i < heads * kTeams; i += kThreads) {
    const float* const maxima = left + i / kTeams * kTeams * kStride + kMaxDim;
    float max = -INFINITY;
#pragma unroll
    for (int t = 0; t < kTeams; ++t) max = fmaxf(max, maxima[t * kStride]);
    weights[i] = max == -INFINITY ? 0.0f : expf(maxima[i % kTeams * kStride] - max);
    if (i % kTeams == 0) largest[i / kTeams] = max;
  }
  __syncthreads();

  const int partial_stride = d + 2;
  for (int i = thread; i < heads * d; i += kThreads) {
    const int h = i / d, column = i % d;
    float value = 0, total = 0;
#pragma unroll
    for (int t = 0; t < kTeams; ++t) {
      const float* const part = left + (h * kTeams + t) * kStride;
      const float weight = weights[h * kTeams + t];
      value = fmaf(part[column], weight, value);
      total = fmaf(part[kMaxDim + 1], weight, total);
    }
    if (p.splits == 1) {
      p.o[(head0 + h) * d + column] = value / total;
      continue;
    }
    float* const to = p.partial + ((head0 + h) * p.splits + split) * partial_stride;
    to[column] = value;
    if (column == 0) {
      to[d] = largest[h];
      to[d + 1] = total;
    }
  }
  if (p.splits == 1) return;

  __shared__ bool last;
  __threadfence();
  __syncthreads();
  unsigned* const finished = p.finished + sequence * p.num_kv_heads + kv_head;
  if (thread == 0) last = atomicAdd(finished, 1u) + 1 == static_cast<unsigned>(p.splits);
  __syncthreads();
  if (!last) return;
  __threadfence();
  if (thread == 0) *finished = 0;
  for (int i = thread; i < heads * d; i += kThreads) {
    const int h = i / d, column = i % d;
    const float* const parts = p.partial + (head0 + h) * p.splits * partial_stride;
    const int64_t count = position / kSplitKeys + 1;
    float max = -INFINITY, value = 0, total = 0;
    for (int64_t s = 0; s < count; ++s) max = fmaxf(max, parts[s * partial_stride + d]);
    for (int64_t s = 0; s < count; ++s) {
      const float weight = max == -INFINITY ? 0.0f : expf(parts[s * partial_stride + d] - max);
      value = fmaf(parts[s * partial_stride + column], weight, value);
      total = fmaf(parts[s * partial_stride + d + 1], weight, total);
    }
    p.o[(head0 + h) * d + column] = value / total;
  }
}

template <int kMaxDim, int kHeads, bool kLean>
absl::Status LaunchBlocks(const DecodeParams& p, const cuda::Stream& stream) {
  const int64_t floats =
      (kHeads + 2) * kMaxDim + int64_t{kHeads} * (Teams<kMaxDim>::kCount * (kMaxDim + 3) + 1);
  return cuda::Launch("attention_f32_f32 decode", attention_f32_f32_decode_sm80<kMaxDim, kHeads, kLean>,
                      {.grid = dim3(static_cast<unsigned>(p.splits), static_cast<unsigned>(p.num_kv_heads),
                                    static_cast<unsigned>(p.m)),
                       .block = dim3(kThreads),
                       .shared_bytes = floats * int64_t{sizeof(float)},
                       .overlaps = true},
                      stream, p);
}
template <int kMaxDim, int kHeads>
absl::Status LaunchDecode(const DecodeParams& p, const cuda::Stream& stream) {
  if constexpr (kMaxDim <= 128 && kHeads <= 4) {
    // More blocks take longer lean (64: 7.1 for 5.8 microseconds on an H200) than the room saves.
    constexpr int64_t kMostLean = 32;
    if (p.splits * p.num_kv_heads * p.m <= kMostLean) return LaunchBlocks<kMaxDim, kHeads, true>(p, stream);
  }
  return LaunchBlocks<kMaxDim, kHeads, false>(p, stream);
}

template <int kMaxDim>
absl::Status ForHeads(const DecodeParams& p, const cuda::Stream& stream) {
  const int64_t heads = p.num_heads / p.num_kv_heads;
  if (heads == 1) return LaunchDecode<kMaxDim, 1>(p, stream);
  if (heads <= 4) return LaunchDecode<kMaxDim, 4>(p, stream);
  return LaunchDecode<kMaxDim, 8>(p, stream);
}

}  // namespace

bool CanDecode(int64_t num_heads, int64_t num_kv_heads, int64_t head_dim) {
  const int64_t most_heads = head_dim <= 128 ? 8 : 4;  // shared memory and registers
  return head_dim <= 256 && head_dim % 4 == 0 && num_heads <= num_kv_heads * most_heads;
}

absl::Status RunDecode(const DecodeParams& p, const cuda::Stream& stream) {
  if (!CanDecode(p.num_heads, p.num_kv_heads, p.head_dim)) {
    return absl::InternalError("attention_f32_f32: no decode kernel for this shape");
  }
  if (p.head_dim <= 64) return ForHeads<64>(p, stream);
  if (p.head_dim <= 128) return ForHeads<128>(p, stream);
  return p.num_heads == p.num_kv_heads ? LaunchDecode<256, 1>(p, stream) : LaunchDecode<256, 4>(p, stream);
}

}  // namespace spikefold::kernels::attention_f32_f32
