// One row of each sequence over its pages, on tensor cores.
//
// A warp takes every so many-th page of a key/value head on its own: scores^T = keys * queries^T, online
// softmax in registers, out^T += values^T * weights^T. Four heads that share the page are columns 0-3 of the
// right operand in their high f16 halves and columns 4-7 in the low ones, so that queries and weights lose
// nothing that float32 would keep. Scales of keys go into the queries, their minima into a constant of the
// page, scales and minima of values into the weights: codes are multiplied as they lie (ukv_codes.cuh).
// Keys and values of a page come through a ring of three slots a warp: while one is used, two are on their
// way. Keys coded before rotary embedding: the queries are turned back by the page's place, the keys are
// decoded to f16 and turned by theirs in it (cos and sin of 64 places in shared memory). f16 rows, pinned and
// recent, are read from global memory 16 at a time: there are few.
#include <algorithm>

#include "kernels/attention_f32_f32_ukv/ukv_decoder.cuh"
#include "kernels/cuda/block.cuh"
#include "kernels/cuda/launch.cuh"

namespace spikefold::kernels::attention_f32_f32_ukv {
namespace {

// The rings of so many warps fit into a multiprocessor, and so many registers each.
template <int kBits, bool kTurned>
inline constexpr int kWarpsFor = kBits == 16             ? 6
                                 : kBits == 8 && kTurned ? 8
                                                         : kMaxWarps;

template <int kBits, int kDim, bool kTurned, KeyScale kScale>
__global__ void __launch_bounds__(kWarpsFor<kBits, kTurned>* cuda::kWarp, 1)
    attention_f32_f32_ukv_decode_sm80(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(128) char shared[];
  cuda::LetNextStart();
  cuda::WaitForInputs();
  const int sequence = static_cast<int>(blockIdx.z), split = static_cast<int>(blockIdx.x);
  CudaKvLayer layer = p.layer;
  layer.pages += sequence * p.page_stride;
  layer.rows_k += sequence * p.row_stride;
  layer.rows_v += sequence * p.row_stride;
  layer.pinned_k += sequence * p.pinned_stride;
  layer.pinned_v += sequence * p.pinned_stride;
  const KvPlace at = p.device_at != nullptr ? *p.device_at : p.at;
  const int kv_heads = static_cast<int>(layer.format.num_kv_heads);
  const int group = static_cast<int>(p.num_heads) / kv_heads, chunks = (group + kHeads - 1) / kHeads;
  const int kv_head = static_cast<int>(blockIdx.y) / chunks, chunk = static_cast<int>(blockIdx.y) % chunks;
  const int heads = min(kHeads, group - chunk * kHeads);
  const int64_t head0 = sequence * p.num_heads + kv_head * group + chunk * kHeads;  // row of [.., num_heads]
  const int warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;

  const CudaSight sight = SightOf(layer, static_cast<int>(p.window), at.first);
  const int page_begin =
      max(0, sight.begin - static_cast<int>(layer.num_pinned)) / static_cast<int>(kPageTokens);
  const int coded = max(page_begin, max(at.first_row_page, CodedPages(layer, at.first)));
  Decoder<kBits, kDim, kTurned, kScale> decoder(p, layer, shared, kv_head);
  const int step = warps * static_cast<int>(p.splits), self = split * warps + warp;
  // Rows in units, from the last warp backwards: the first ones may have a page more.
  const int row_begin = max(sight.begin, PageBegin(layer, coded));
  const int pinned = max(0, sight.pinned_end - sight.pinned_begin), recent = max(0, at.first + 1 - row_begin);
  const int pinned_units = (pinned + kUnitRows - 1) / kUnitRows;
  const int units = pinned_units + (recent + kUnitRows - 1) / kUnitRows;
  const auto stage = [&] {
    decoder.Stage(p.q + head0 * kDim, heads);
    if (coded > page_begin) decoder.StageTurns();
    __syncthreads();
  };
  if constexpr (!kTurned) stage();
  decoder.Pages(page_begin + self, step, coded, sight.begin, [&] {
    if constexpr (kTurned) stage();  // turns take a while: the first copies are on their way by then
    for (int unit = step - 1 - self; unit < units; unit += step) {
      const bool is_pinned = unit < pinned_units;
      const int first =
          is_pinned ? sight.pinned_begin + unit * kUnitRows : row_begin + (unit - pinned_units) * kUnitRows;
      const int end = is_pinned ? sight.pinned_end : at.first + 1;
      decoder.Rows(is_pinned ? layer.pinned_k : layer.rows_k, is_pinned ? layer.pinned_v : layer.rows_v,
                   min(kUnitRows, end - first), [&](int i) {
                     return is_pinned ? (int64_t{first + i} * kv_heads + kv_head) * kDim
                                      : RingAt(layer, first + i, kv_head);
                   });
    }
  });

  __syncthreads();  // the rings are used up
  float* const left = reinterpret_cast<float*>(shared);
  decoder.Leave(left + warp * LeftFloats(kDim));
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < heads * kDim; i += static_cast<int>(blockDim.x)) {
    const int h = i / kDim, column = i % kDim;
    const float* const parts = left + h * (kDim + 2);
    float max = -INFINITY, value = 0, total = 0;
    for (int w = 0; w < warps; ++w) max = fmaxf(max, parts[w * LeftFloats(kDim) + kDim]);
    for (int w = 0; w < warps; ++w) {
      const float* const part = parts + w * LeftFloats(kDim);
      const float by = max == -INFINITY ? 0.0f : exp2f(part[kDim] - max);
      value = fmaf(part[column], by, value);
      total = fmaf(part[kDim + 1], by, total);
    }
    if (p.splits == 1) {
      p.o[(head0 + h) * kDim + column] = value / total;
      continue;
    }
    float* const to = PartialOf(p, head0 + h, split);
    to[column] = value;
    if (column == 0) {
      to[kDim] = max;
      to[kDim + 1] = total;
    }
  }
  if (p.splits == 1) return;
  if (!IsLastSplit(p, p.finished + sequence * static_cast<int>(gridDim.y) + static_cast<int>(blockIdx.y)))
    return;
  for (int i = static_cast<int>(threadIdx.x); i < heads * kDim; i += static_cast<int>(blockDim.x)) {
    p.o[head0 * kDim + i] = MergedValue(p, head0 + i / kDim, i % kDim, [](float x) { return exp2f(x); });
  }
}

template <int kBits, int kDim, bool kTurned, KeyScale kScale>
absl::Status LaunchDecode(const CudaParams& p, const cuda::Stream& stream) {
  const KvFormat& f = p.layer.format;
  if (!PartLayout<kBits, kDim, kScale>::Is(p.layer.layout)) {
    return absl::InternalError("attention_f32_f32_ukv decode: pages lie in another way");
  }
  const int64_t ring = kSlotsFor<kBits> * SlotBytes(p.layer.layout, kDim, kTurned),
                fixed = FixedBytes(kDim, kTurned);
  const int64_t room = cuda::MaxSharedBytes() - 1024 - fixed;
  const int64_t warps = std::clamp<int64_t>(room / ring, 1, kWarpsFor<kBits, kTurned>);
  const int64_t chunks = cuda::CeilDiv(p.num_heads / f.num_kv_heads, kHeads);
  return cuda::Launch(
      "attention_f32_f32_ukv decode", attention_f32_f32_ukv_decode_sm80<kBits, kDim, kTurned, kScale>,
      {.grid = dim3(static_cast<unsigned>(p.splits), static_cast<unsigned>(f.num_kv_heads * chunks),
                    static_cast<unsigned>(p.sequences)),
       .block = dim3(static_cast<unsigned>(warps * cuda::kWarp)),
       .shared_bytes = std::max(fixed + warps * ring, 4 * warps * LeftFloats(kDim)),
       .overlaps = true},
      stream, p);
}

template <int kBits, int kDim>
absl::Status ForTurned(const CudaParams& p, const cuda::Stream& stream) {
  if constexpr (kBits < 16) {
    if (p.layer.turned) return LaunchDecode<kBits, kDim, true, KeyScale::kPage>(p, stream);
    if (p.layer.format.key_scale == KeyScale::kToken) {
      return LaunchDecode<kBits, kDim, false, KeyScale::kToken>(p, stream);
    }
  }
  return LaunchDecode<kBits, kDim, false, KeyScale::kPage>(p, stream);
}
template <int kDim>
absl::Status ForBits(const CudaParams& p, const cuda::Stream& stream) {
  if (p.layer.format.k_bits == 4) return ForTurned<4, kDim>(p, stream);
  return p.layer.format.k_bits == 8 ? ForTurned<8, kDim>(p, stream) : ForTurned<16, kDim>(p, stream);
}

}  // namespace

bool CanDecode(const CudaParams& p) {
  const KvFormat& f = p.layer.format;
  const bool width = f.k_bits == f.v_bits && (f.k_bits == 4 || f.k_bits == 8 || f.k_bits == 16);
  const bool scales = f.k_bits == 16   ? !p.layer.turned
                      : p.layer.turned ? f.key_scale == KeyScale::kPage
                                       : f.key_scale != KeyScale::kChannel;
  return p.m == 1 && width && scales && p.layer.evict == 0 && (f.head_dim == 64 || f.head_dim == 128);
}

absl::Status RunDecode(const CudaParams& p, const cuda::Stream& stream) {
  if (!CanDecode(p)) return absl::InternalError("attention_f32_f32_ukv: no decode kernel for this cache");
  return p.layer.format.head_dim == 64 ? ForBits<64>(p, stream) : ForBits<128>(p, stream);
}

}  // namespace spikefold::kernels::attention_f32_f32_ukv
