#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::attention_f32_f32_ukv {
namespace {

constexpr int kRows = 32, kKeys = 32, kThreads = 256;
constexpr int kRowThreads = kThreads / kRows;  // 8 threads share a query row
constexpr int kKeysPerThread = kKeys / kRowThreads;
constexpr int kPageTiles = static_cast<int>(kPageTokens) / kKeys;
constexpr int kPad = 4;  // floats behind each row in shared memory: neighbours fall into other banks

__device__ float4 Load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ float Dot4(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}
template <typename Combine>
__device__ float RowReduce(float value, Combine combine) {
  for (int offset = kRowThreads / 2; offset > 0; offset /= 2) {
    value = combine(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// The tiles of keys that a block's rows see: pinned rows, pages as codes, then pages as rows.
struct Tiles {
  int pinned_begin, num_pinned;  // first position; tiles
  int coded_begin, num_coded;    // first page; tiles
  int row_begin, num_rows;       // likewise
  __device__ int count() const { return num_pinned + num_coded + num_rows; }
};
__device__ Tiles TilesOf(const CudaParams& p, const KvPlace& at, int first, int last) {
  const CudaKvLayer& c = p.layer;
  const CudaSight low = SightOf(c, static_cast<int>(p.window), first),
                  high = SightOf(c, static_cast<int>(p.window), last);
  Tiles t = {low.pinned_begin, 0, 0, 0, 0, 0};
  if (low.pinned_begin < high.pinned_end) {
    t.num_pinned = (high.pinned_end - low.pinned_begin + kKeys - 1) / kKeys;
  }
  const int pinned = static_cast<int>(c.num_pinned), page = static_cast<int>(kPageTokens);
  if (last < pinned) return t;
  const int page_begin = (low.begin - pinned) / page, page_end = (last - pinned) / page + 1;
  const int coded_end = min(page_end, max(at.first_row_page, CodedPages(c, last)));
  const int rows_begin = max(page_begin, max(at.first_row_page, CodedPages(c, first)));
  t.coded_begin = page_begin;
  t.num_coded = max(0, coded_end - page_begin) * kPageTiles;
  t.row_begin = rows_begin;
  t.num_rows = max(0, page_end - rows_begin) * kPageTiles;
  return t;
}

enum class Form { kPinned, kCodes, kRows };
struct Tile {
  Form form;
  int begin, page;  // first position; its page
};
__device__ Tile TileAt(const CudaKvLayer& c, const Tiles& t, int i) {
  if (i < t.num_pinned) return {Form::kPinned, t.pinned_begin + i * kKeys, 0};
  i -= t.num_pinned;
  const bool codes = i < t.num_coded;
  if (!codes) i -= t.num_coded;
  const int page = (codes ? t.coded_begin : t.row_begin) + i / kPageTiles;
  return {codes ? Form::kCodes : Form::kRows, PageBegin(c, page) + i % kPageTiles * kKeys, page};
}

// Keys and values of a tile, zeros behind `last` and in the padding of rows.
__device__ void LoadTile(const CudaKvLayer& c, const Tile& tile, int kv_head, int last, int stride, float* k,
                         float* v) {
  const int d = static_cast<int>(c.format.head_dim), padded = stride - kPad,
            thread = static_cast<int>(threadIdx.x);
  if (tile.form == Form::kCodes) {
    const uint8_t* const part = PageHead(c, tile.page, kv_head);
    const int row0 = tile.begin - PageBegin(c, tile.page), half = d / 2;
    // Neighbouring threads: neighbouring positions of a channel, whose codes lie side by side.
    for (int i = thread; i < kKeys * (c.turned ? half : padded); i += kThreads) {
      const int row = i % kKeys, channel = i / kKeys;
      if (c.turned) {
        const float2 pair = TurnedKey(c, part, tile.page, kv_head, row0 + row, channel);
        k[row * stride + channel] = pair.x;
        k[row * stride + channel + half] = pair.y;
      } else {
        k[row * stride + channel] = channel < d ? StoredKey(c, part, kv_head, row0 + row, channel) : 0.0f;
      }
    }
    for (int i = thread; c.turned && i < kKeys * (padded - d); i += kThreads) {
      k[i % kKeys * stride + d + i / kKeys] = 0.0f;
    }
    for (int i = thread; i < kKeys * padded; i += kThreads) {
      const int row = i / padded, channel = i % padded;
      v[row * stride + channel] = channel < d ? StoredValue(c, part, row0 + row, channel) : 0.0f;
    }
    return;
  }
  const bool pinned = tile.form == Form::kPinned;
  const uint16_t *from_k = pinned ? c.pinned_k : c.rows_k, *from_v = pinned ? c.pinned_v : c.rows_v;
  const int end = pinned ? min(last + 1, static_cast<int>(c.num_pinned)) : last + 1;
  for (int i = thread; i < kKeys * padded; i += kThreads) {
    const int row = i / padded, channel = i % padded, position = tile.begin + row;
    const bool there = position < end && channel < d;
    const int64_t at = !there   ? 0
                       : pinned ? (int64_t{position} * c.format.num_kv_heads + kv_head) * d + channel
                                : RingAt(c, position, kv_head) + channel;
    k[row * stride + channel] = there ? HalfBits(from_k[at]) : 0.0f;
    v[row * stride + channel] = there ? HalfBits(from_v[at]) : 0.0f;
  }
}

// Rows of the heads of one key/value head: (m, head) in order.
template <int kMaxDim>
__global__ void __launch_bounds__(kThreads, 1)
    attention_f32_f32_ukv_sm80(const __grid_constant__ CudaParams p) {
  constexpr int kChunks = kMaxDim / (4 * kRowThreads);  // of 4 columns a thread owns
  extern __shared__ __align__(16) float shared[];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const CudaKvLayer& c = p.layer;
  const int d = static_cast<int>(c.format.head_dim), padded = (d + 3) / 4 * 4, stride = padded + kPad;
  float* const k = shared;                         // [kKeys][stride]
  float* const v = k + kKeys * stride;             // [kKeys][stride]
  float* const q = v + kKeys * stride;             // [kRows][stride]
  float* const weight = q + kRows * stride;        // [kRows][kKeys]
  float* const q_pinned = weight + kRows * kKeys;  // [kRows][stride], with eviction
  const KvPlace at = p.device_at != nullptr ? *p.device_at : p.at;
  const int group = static_cast<int>(p.num_heads / c.format.num_kv_heads);
  const int kv_head = static_cast<int>(blockIdx.y), rows_total = static_cast<int>(p.m) * group;
  const int row0 = static_cast<int>(blockIdx.x) * kRows, thread = static_cast<int>(threadIdx.x);
  const int row = thread / kRowThreads, part = thread % kRowThreads;
  const auto position_of = [&](int r) { return at.first + min(r, rows_total - 1) / group; };
  const auto offset_of = [&](int r) {  // of row r in q and o
    return (int64_t{r / group} * p.num_heads + kv_head * group + r % group) * d;
  };

  for (int i = thread; i < kRows * padded; i += kThreads) {
    const int r = row0 + i / padded, column = i % padded;
    q[i / padded * stride + column] = r < rows_total && column < d ? p.q[offset_of(r) + column] : 0.0f;
  }
  __syncthreads();
  for (int i = thread; c.evict > 0 && i < kRows * padded; i += kThreads) {
    // The queries as pinned keys see them: turned back by as many positions as rows have left.
    const int r = i / padded, column = i % padded, half = d / 2;
    if (column >= d) {
      q_pinned[r * stride + column] = 0;
      continue;
    }
    const int e = SightOf(c, 0, position_of(row0 + r)).evicted, j = column % half;
    const float cos = c.cos[int64_t{e} * half + j], sin = c.sin[int64_t{e} * half + j];
    const float a = q[r * stride + j], b = q[r * stride + j + half];
    q_pinned[r * stride + column] = column < half ? a * cos + b * sin : b * cos - a * sin;
  }

  const int position = position_of(row0 + row), last = position_of(row0 + kRows - 1);
  const CudaSight sight = SightOf(c, static_cast<int>(p.window), position);
  const int coded = PageBegin(c, max(at.first_row_page, CodedPages(c, position)));  // behind it: rows
  const Tiles tiles = TilesOf(p, at, position_of(row0), last);
  const int64_t split = blockIdx.z, begin = tiles.count() * split / p.splits,
                end = tiles.count() * (split + 1) / p.splits;
  float4 sum[kChunks];
  for (int i = 0; i < kChunks; ++i) sum[i] = make_float4(0, 0, 0, 0);
  float max = -INFINITY, total = 0;
  for (int64_t t = begin; t < end; ++t) {
    const Tile tile = TileAt(c, tiles, static_cast<int>(t));
    __syncthreads();
    LoadTile(c, tile, kv_head, last, stride, k, v);
    __syncthreads();
    const float* const from = (c.evict > 0 && tile.form == Form::kPinned ? q_pinned : q) + row * stride;
    float score[kKeysPerThread] = {};
    for (int i = 0; i < padded; i += 4) {
      const float4 a = Load4(from + i);
#pragma unroll
      for (int j = 0; j < kKeysPerThread; ++j) {
        score[j] = Dot4(a, Load4(k + (part + j * kRowThreads) * stride + i), score[j]);
      }
    }
    float block_max = max;
#pragma unroll
    for (int j = 0; j < kKeysPerThread; ++j) {
      const int key = tile.begin + part + j * kRowThreads;
      const bool seen = tile.form == Form::kPinned
                            ? key >= sight.pinned_begin && key < sight.pinned_end
                            : key >= sight.begin && key <= position &&
                                  (tile.form == Form::kCodes ? key < coded : key >= coded);
      score[j] = seen ? score[j] * p.scale : -INFINITY;
      block_max = fmaxf(block_max, score[j]);
    }
    block_max = RowReduce(block_max, cuda::Max());
    // Nothing seen so far leaves the maximum at -infinity: then every weight is 0, not NaN.
    const float base = block_max == -INFINITY ? 0.0f : block_max;
    const float shrink = expf(max - base);
    float block_total = 0;
#pragma unroll
    for (int j = 0; j < kKeysPerThread; ++j) {
      const float w = expf(score[j] - base);
      weight[row * kKeys + part + j * kRowThreads] = w;
      block_total += w;
    }
    total = fmaf(total, shrink, RowReduce(block_total, cuda::Sum()));
    max = block_max;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int column = (i * kRowThreads + part) * 4;
      if (column >= padded) break;
      float4 acc = sum[i];
      acc = make_float4(acc.x * shrink, acc.y * shrink, acc.z * shrink, acc.w * shrink);
#pragma unroll 8
      for (int j = 0; j < kKeys; ++j) {
        const float w = weight[row * kKeys + j];
        const float4 b = Load4(v + j * stride + column);
        acc = make_float4(fmaf(w, b.x, acc.x), fmaf(w, b.y, acc.y), fmaf(w, b.z, acc.z), fmaf(w, b.w, acc.w));
      }
      sum[i] = acc;
    }
  }

  const int r = row0 + row;
  if (r < rows_total) {
    float* const o = p.splits == 1 ? p.o + offset_of(r) : PartialOf(p, offset_of(r) / d, split);
    const float by = p.splits == 1 ? total : 1.0f;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int column = (i * kRowThreads + part) * 4;
      const float values[4] = {sum[i].x, sum[i].y, sum[i].z, sum[i].w};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (column + e < d) o[column + e] = values[e] / by;
      }
    }
    if (p.splits > 1 && part == 0) {
      o[d] = max;
      o[d + 1] = total;
    }
  }
  if (p.splits == 1) return;
  if (!IsLastSplit(p, p.finished + blockIdx.y * gridDim.x + blockIdx.x)) return;
  const int rows = min(kRows, rows_total - row0);
  for (int i = thread; i < rows * d; i += kThreads) {
    const int64_t at_row = offset_of(row0 + i / d);
    p.o[at_row + i % d] = MergedValue(p, at_row / d, i % d, [](float x) { return expf(x); });
  }
}

}  // namespace

absl::Status RunCuda(const CudaParams& p, const cuda::Stream& stream) {
  if (p.m == 0) return absl::OkStatus();
  const int64_t d = p.layer.format.head_dim;
  if (d > 256) {
    return absl::UnimplementedError(absl::StrCat("backend \"cuda\": attention in pages: head_dim=", d,
                                                 " is above 256; use --backend cpu"));
  }
  const int64_t stride = (d + 3) / 4 * 4 + kPad, group = p.num_heads / p.layer.format.num_kv_heads;
  const int64_t floats = (2 * kKeys + (p.layer.evict > 0 ? 2 : 1) * kRows) * stride + kRows * kKeys;
  const cuda::Shape shape{
      .grid = dim3(static_cast<unsigned>(cuda::CeilDiv(p.m * group, kRows)),
                   static_cast<unsigned>(p.layer.format.num_kv_heads), static_cast<unsigned>(p.splits)),
      .block = dim3(kThreads),
      .shared_bytes = 4 * floats,
      .overlaps = true};
  auto* const kernel = d <= 64    ? attention_f32_f32_ukv_sm80<64>
                       : d <= 128 ? attention_f32_f32_ukv_sm80<128>
                                  : attention_f32_f32_ukv_sm80<256>;
  return cuda::Launch("attention_f32_f32_ukv", kernel, shape, stream, p);
}

int64_t SplitsFor(const CudaParams& p, int64_t positions, int64_t target) {
  const int64_t group = p.num_heads / p.layer.format.num_kv_heads;
  const int64_t blocks = CanDecode(p) ? p.sequences * p.layer.format.num_kv_heads * cuda::CeilDiv(group, 4)
                                      : cuda::CeilDiv(p.m * group, kRows) * p.layer.format.num_kv_heads;
  const int64_t pages = cuda::CeilDiv(positions, kPageTokens);
  return std::clamp<int64_t>(target / std::max<int64_t>(blocks, 1), 1, std::max<int64_t>(pages, 1));
}

}  // namespace spikefold::kernels::attention_f32_f32_ukv
