// The same arithmetic as kernels/kv_page.cc, in its order: a thread a group.
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/kv_page.cuh"

namespace spikefold::kernels {
namespace {

constexpr int kThreads = 256, kRun = 64, kLane = 16;
constexpr int kKeyStride = kRun + 1;  // floats of a channel in shared memory
constexpr int kNarrowBits = 3;        // as in kv_page.cc
constexpr float kToInteger = 0x1.8p23f;

struct GroupScale {
  uint16_t scale = 0, min = 0;  // f16
};

__device__ uint16_t ToHalfBits(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ uint16_t Step(uint16_t f16, bool up) {
  const bool negative = (f16 & 0x8000u) != 0;
  if ((f16 & 0x7fffu) == 0) return up ? 0x0001u : 0x8001u;
  return static_cast<uint16_t>(negative == up ? f16 - 1 : f16 + 1);
}
__device__ uint16_t F16AtMost(float value) {
  const uint16_t nearest = ToHalfBits(value);
  return HalfBits(nearest) > value ? Step(nearest, false) : nearest;
}
__device__ uint16_t F16AtLeast(float value) {
  const uint16_t nearest = ToHalfBits(value);
  return HalfBits(nearest) < value ? Step(nearest, true) : nearest;
}
__device__ GroupScale GridOver(float low, float high, int bits) {
  const uint16_t min = F16AtMost(low);
  return {F16AtLeast((high - HalfBits(min)) / static_cast<float>((1 << bits) - 1)), min};
}

__device__ float Clamp(float u, float top) {
  u = u < 0.0f ? 0.0f : u;
  return top < u ? top : u;
}
__device__ float FourthPowerError(const float* x, int bits, const GroupScale& grid) {
  const float scale = HalfBits(grid.scale), min = HalfBits(grid.min);
  const float inverse = 1.0f / scale, top = static_cast<float>((1 << bits) - 1);
  float sums[8] = {};
  for (int i = 0; i < kRun; i += 8) {
#pragma unroll
    for (int l = 0; l < 8; ++l) {
      const float u = Clamp((x[i + l] - min) * inverse, top);
      const float error = ((u + kToInteger) - kToInteger) * scale + min - x[i + l];
      sums[l] += error * error * (error * error);
    }
  }
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}
__device__ GroupScale NarrowGrid(const float* x, float low, float high, int bits) {
  const float step = (high - low) / 20;
  GroupScale best = GridOver(low, high, bits);
  if (!(HalfBits(best.scale) > 0)) return best;
  float least = FourthPowerError(x, bits, best);
  int failed = 0;
  for (int turn = 0; failed < 2 && turn < 16; ++turn) {
    const float tried_low = turn % 2 == 0 ? low + step : low, tried_high = turn % 2 == 0 ? high : high - step;
    const GroupScale grid = GridOver(tried_low, tried_high, bits);
    const float error = FourthPowerError(x, bits, grid);
    failed = error < least ? 0 : failed + 1;
    if (failed > 0) continue;
    least = error;
    best = grid;
    low = tried_low;
    high = tried_high;
  }
  return best;
}
// Values x[i * stride], i < n.
__device__ GroupScale ChooseGrid(const float* x, int n, int stride, int bits, bool narrow) {
  float low = x[0], high = x[0], finite = 0;
  for (int i = 0; i < n; ++i) {
    const float value = x[i * stride];
    low = value < low ? value : low;
    high = high < value ? value : high;
    finite += value * 0.0f;
  }
  if (!(finite == 0)) return {0x7e00u, 0x7e00u};
  return narrow ? NarrowGrid(x, low, high, bits) : GridOver(low, high, bits);
}

struct Grid {
  float scale, min, inverse, top;
};
__device__ Grid GridOf(float scale, float min, int bits) {
  return {scale, min, 1.0f / scale, static_cast<float>((1 << bits) - 1)};
}
__device__ int Encode(const Grid& g, float x) {
  if (!(g.scale > 0)) return 0;
  return static_cast<int>((Clamp((x - g.min) * g.inverse, g.top) + kToInteger) - kToInteger);
}

// A run of 64 codes, code(i) of each.
template <typename Code>
__device__ void PackRun(int bits, uint8_t* out, Code code) {
  if (bits == 8) {
    for (int i = 0; i < kRun; ++i) out[i] = static_cast<uint8_t>(code(i));
    return;
  }
  const int stored = bits == 4 ? 4 : 2, mask = (1 << stored) - 1;
  uint32_t high[2] = {};
  for (int l = 0; l < kLane; ++l) {
    unsigned lane = 0;
    for (int k = 0; k < 4; ++k) {
      const int c = code(k * kLane + l), i = k * kLane + l;
      lane |= static_cast<unsigned>(c & mask) << (stored * k);
      if (k < 2) {
        high[0] |= static_cast<uint32_t>(c >> 2) << i;
      } else {
        high[1] |= static_cast<uint32_t>(c >> 2) << (i - 32);
      }
    }
    if (bits == 4) {
      reinterpret_cast<uint16_t*>(out)[l] = static_cast<uint16_t>(lane);
    } else {
      out[l] = static_cast<uint8_t>(lane);
    }
  }
  if (bits != 3) return;
  reinterpret_cast<uint32_t*>(out + kLane)[0] = high[0];
  reinterpret_cast<uint32_t*>(out + kLane)[1] = high[1];
}

// keys [head_dim][kKeyStride] -> before rotary embedding.
__device__ void TurnBack(const CudaKvLayer& layer, int page, float* keys) {
  const int half = static_cast<int>(layer.format.head_dim) / 2;
  for (int at = static_cast<int>(threadIdx.x); at < half * kRun; at += kThreads) {
    const int i = at / kRun, t = at % kRun;
    float &a = keys[i * kKeyStride + t], &b = keys[(i + half) * kKeyStride + t];
    const int64_t base = int64_t{PageBegin(layer, page)} * half + i;
    Turn(a, b, layer.cos[base], -layer.sin[base]);
    Turn(a, b, layer.cos[t * half + i], -layer.sin[t * half + i]);
  }
  __syncthreads();
}

struct PageBuffers {
  float *keys, *values;  // [d][kKeyStride]; [64][d + 1]
  GroupScale* token;     // [64] of keys by token
};

__device__ void CodeKeys(const KvAppendParams& p, int kv_head, const PageBuffers& b, uint8_t* part) {
  const CudaKvLayer& layer = p.layer;
  const KvFormat& f = layer.format;
  const int d = static_cast<int>(f.head_dim), bits = f.k_bits;
  auto* const scales = reinterpret_cast<uint16_t*>(part + layer.layout.k_scales);
  if (bits < 16 && f.key_scale == KeyScale::kToken) {
    for (int t = static_cast<int>(threadIdx.x); t < kRun; t += kThreads) {
      b.token[t] = ChooseGrid(b.keys + t, d, kKeyStride, bits, false);
      scales[t] = b.token[t].scale;
      scales[kRun + t] = b.token[t].min;
    }
    __syncthreads();
  }
  unsigned long long outside = 0;
  for (int c = static_cast<int>(threadIdx.x); c < d; c += kThreads) {
    const float* x = b.keys + c * kKeyStride;
    uint8_t* const run = part + c * layer.layout.k_run;
    if (bits == 16) {
      for (int t = 0; t < kRun; ++t) reinterpret_cast<uint16_t*>(run)[t] = ToHalfBits(x[t]);
    } else if (f.key_scale == KeyScale::kToken) {
      PackRun(bits, run, [&](int t) {
        return Encode(GridOf(HalfBits(b.token[t].scale), HalfBits(b.token[t].min), bits), x[t]);
      });
    } else if (f.key_scale == KeyScale::kPage) {
      const GroupScale s = ChooseGrid(x, kRun, 1, bits, bits <= kNarrowBits);
      scales[c] = s.scale;
      scales[d + c] = s.min;
      const Grid grid = GridOf(HalfBits(s.scale), HalfBits(s.min), bits);
      PackRun(bits, run, [&](int t) { return Encode(grid, x[t]); });
    } else {
      const int64_t at = kv_head * f.head_dim + c;
      const Grid grid = GridOf(layer.channels.scale[at], layer.channels.min[at], bits);
      for (int t = 0; t < kRun && grid.scale > 0; ++t) {
        const float u = (x[t] - grid.min) * grid.inverse;
        outside += u < -0.5f || u > grid.top + 0.5f ? 1 : 0;
      }
      PackRun(bits, run, [&](int t) { return Encode(grid, x[t]); });
    }
  }
  if (outside > 0 && p.clamped != nullptr) atomicAdd(p.clamped, outside);
}

__device__ void CodeValues(const CudaKvLayer& layer, const PageBuffers& b, uint8_t* part) {
  const int d = static_cast<int>(layer.format.head_dim), bits = layer.format.v_bits;
  auto* const scales = reinterpret_cast<uint16_t*>(part + layer.layout.v_scales);
  // From the far end of the block: keys take the near one.
  for (int t = kThreads - 1 - static_cast<int>(threadIdx.x); t < kRun; t += kThreads) {
    const float* x = b.values + t * (d + 1);
    uint8_t* const runs = part + layer.layout.v_codes + t * layer.layout.v_runs * layer.layout.v_run;
    if (bits == 16) {
      for (int c = 0; c < d; ++c) reinterpret_cast<uint16_t*>(runs)[c] = ToHalfBits(x[c]);
      continue;
    }
    const GroupScale s = ChooseGrid(x, d, 1, bits, false);
    scales[t] = s.scale;
    scales[kPageTokens + t] = s.min;
    const Grid grid = GridOf(HalfBits(s.scale), HalfBits(s.min), bits);
    for (int r = 0; r < static_cast<int>(layer.layout.v_runs); ++r) {
      PackRun(bits, runs + r * layer.layout.v_run, [&](int i) {
        const int c = r * kRun + i;
        return c < d ? Encode(grid, x[c]) : 0;
      });
    }
  }
}

// Blocks x = 0 append the rows, the others code a page each: from the new rows where it holds such.
__global__ void __launch_bounds__(kThreads) kv_append_sm80(const __grid_constant__ KvAppendParams p) {
  extern __shared__ float shared[];
  __shared__ GroupScale token[kRun];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const CudaKvLayer& layer = p.layer;
  const int d = static_cast<int>(layer.format.head_dim), kv_head = static_cast<int>(blockIdx.y);
  const int64_t width = layer.format.num_kv_heads * d;
  const KvPlace at = p.device_at != nullptr ? *p.device_at : p.at;
  if (blockIdx.x == 0) {
    for (int64_t i = threadIdx.x; i < p.m * d; i += kThreads) {
      const int row = static_cast<int>(i / d), c = static_cast<int>(i % d), position = at.first + row;
      const bool pinned = position < layer.num_pinned;
      const int64_t to =
          (pinned ? position * width + int64_t{kv_head} * d : RingAt(layer, position, kv_head)) + c;
      const int64_t from = row * width + int64_t{kv_head} * d + c;
      (pinned ? layer.pinned_k : layer.rows_k)[to] = ToHalfBits(p.k[from]);
      (pinned ? layer.pinned_v : layer.rows_v)[to] = ToHalfBits(p.v[from]);
    }
    return;
  }
  const int page = at.first_row_page + static_cast<int>(blockIdx.x) - 1;
  if (page >= CodedPages(layer, at.first + static_cast<int>(p.m) - 1)) return;
  const PageBuffers b = {shared, shared + d * kKeyStride, token};
  for (int i = static_cast<int>(threadIdx.x); i < kRun * d; i += kThreads) {
    const int t = i / d, c = i % d, position = PageBegin(layer, page) + t;
    if (position >= at.first) {
      const int64_t from = (position - at.first) * width + int64_t{kv_head} * d + c;
      b.keys[c * kKeyStride + t] = HalfBits(ToHalfBits(p.k[from]));
      b.values[t * (d + 1) + c] = HalfBits(ToHalfBits(p.v[from]));
    } else {
      const int64_t from = RingAt(layer, position, kv_head) + c;
      b.keys[c * kKeyStride + t] = HalfBits(layer.rows_k[from]);
      b.values[t * (d + 1) + c] = HalfBits(layer.rows_v[from]);
    }
  }
  __syncthreads();
  if (layer.turned) TurnBack(layer, page, b.keys);
  uint8_t* const part = const_cast<uint8_t*>(PageHead(layer, page, kv_head));
  CodeValues(layer, b, part);
  CodeKeys(p, kv_head, b, part);
}

__global__ void __launch_bounds__(kThreads)
    kv_restore_sm80(const __grid_constant__ CudaKvLayer layer, int page, int rows) {
  const int d = static_cast<int>(layer.format.head_dim), kv_head = static_cast<int>(blockIdx.x), half = d / 2;
  const uint8_t* const part = PageHead(layer, page, kv_head);
  for (int i = static_cast<int>(threadIdx.x); i < rows * d; i += kThreads) {
    const int row = i / d, c = i % d;
    float key = 0;
    if (layer.turned) {
      const float2 pair = TurnedKey(layer, part, page, kv_head, row, c % half);
      key = c < half ? pair.x : pair.y;
    } else {
      key = StoredKey(layer, part, kv_head, row, c);
    }
    const int64_t to = RingAt(layer, PageBegin(layer, page) + row, kv_head) + c;
    layer.rows_k[to] = ToHalfBits(key);
    layer.rows_v[to] = ToHalfBits(StoredValue(layer, part, row, c));
  }
}

}  // namespace

absl::Status AppendRows(const KvAppendParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const int64_t d = p.layer.format.head_dim;
  // Pages that rows before these left uncoded, and their own.
  const int64_t pages = (p.m + kPageTokens - 1) / kPageTokens + 1;
  return cuda::Launch(
      "kv_append", kv_append_sm80,
      {.grid = dim3(static_cast<unsigned>(1 + pages), static_cast<unsigned>(p.layer.format.num_kv_heads)),
       .block = dim3(kThreads),
       .shared_bytes = 4 * (d * kKeyStride + kPageTokens * (d + 1)),
       .overlaps = true},
      stream, p);
}

absl::Status RestoreRows(const CudaKvLayer& layer, int64_t page, int64_t rows, const cuda::Stream& stream) {
  if (rows == 0) return absl::OkStatus();
  return cuda::Launch(
      "kv_restore", kv_restore_sm80,
      {.grid = dim3(static_cast<unsigned>(layer.format.num_kv_heads)), .block = dim3(kThreads)}, stream,
      layer, static_cast<int>(page), static_cast<int>(rows));
}

}  // namespace spikefold::kernels
