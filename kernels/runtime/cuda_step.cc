// One token at a time: its 300 launches are recorded once, and the recording is started for every further
// token. Token and position lie in device memory; the attention's number of splits, which fixes the grid,
// grows in powers of two, with a recording for each.
#include <algorithm>
#include <bit>
#include <utility>

#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_decode_cuda.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_cuda.h"
#include "kernels/runtime/cuda_ops.h"

namespace spikefold {
namespace {

namespace attention = kernels::attention_f32_f32;
namespace paged = kernels::attention_f32_f32_ukv;

int64_t SplitsFor(int64_t positions) {
  const int64_t splits = (positions + attention::kSplitKeys - 1) / attention::kSplitKeys;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(splits, 1))));
}

}  // namespace

// A recording holds addresses. Every one is of memory that was allocated before the sequence's last step that
// was not recorded, and no allocation has followed: then they are valid still. That step has copied the
// tables of rotary embedding, which must not have grown since either (an evicting cache's do, as its text
// goes on).
absl::Status CudaOps::Step(const StepArgs& a, absl::FunctionRef<absl::Status()> walk) {
  if (a.sequences.size() != 1) return walk();
  const ModelConfig& c = *a.config;
  KvCache& cache = *a.sequences.front().cache;
  const int64_t first = a.sequences.front().first;
  step_.paged = cache.pages() != nullptr;
  CudaPages* const pages = step_.paged ? static_cast<CudaPages*>(cache.device()) : nullptr;
  if (step_.paged ? pages == nullptr || pages->StepsBack(0, first)
                  : !attention::CanDecode(c.num_heads, c.num_kv_heads, c.head_dim)) {
    return walk();
  }
  step_.splits = step_.paged ? 0 : SplitsFor(first + 1);  // those of pages do not grow
  SF_RETURN_IF_ERROR(step_.host.Reserve(sizeof(StepState)));
  SF_RETURN_IF_ERROR(step_.state.Reserve(sizeof(StepState)));
  // The copy of the token before has been waited for: a step's results are read before the next.
  *step_.host.as<StepState>() = {.token = a.tokens.front(), .at = {.first = static_cast<int32_t>(first)}};
  if (pages != nullptr) {
    step_.host.as<StepState>()->at.first_row_page = static_cast<int32_t>(pages->first_row_page(0));
  }
  SF_RETURN_IF_ERROR(
      cuda::CopyIn(step_.state.as<StepState>(), step_.host.as<StepState>(), sizeof(StepState), *stream_));
  step_.active = true;
  step_.rope = nullptr;
  const auto leave = [&](absl::Status status) {
    step_.active = false;
    if (pages != nullptr && status.ok()) pages->SettleAll(first + 1);
    return status;
  };
  const auto now = [&] { return std::pair(kernels::cuda::NumAllocations(), a.rope_positions); };
  auto* const rows = static_cast<CudaSequence*>(cache.device());
  if (rows == nullptr || rows->valid_at != now()) {
    if (rows != nullptr) rows->steps.clear();
    const absl::Status status = walk();
    if (status.ok()) static_cast<CudaSequence*>(cache.device())->valid_at = now();
    return leave(status);
  }
  auto recorded = rows->steps.find(step_.splits);
  if (recorded == rows->steps.end()) {
    absl::StatusOr<cuda::Graph> graph = cuda::Graph::Record(*stream_, walk);
    if (!graph.ok()) return leave(graph.status());
    recorded = rows->steps.emplace(step_.splits, *std::move(graph)).first;
  }
  return leave(recorded->second.Run(*stream_));
}

// Room for the partial results of a split attention; the counters are zeros.
absl::Status CudaOps::ReserveSplits(int64_t partial_floats, int64_t num_counters) {
  SF_RETURN_IF_ERROR(step_.partial.Reserve(static_cast<size_t>(partial_floats) * sizeof(float)));
  const size_t counters = static_cast<size_t>(num_counters) * sizeof(unsigned);
  if (step_.finished.bytes() >= counters) return absl::OkStatus();
  SF_RETURN_IF_ERROR(step_.finished.Reserve(counters));
  return cuda::Fill(step_.finished.as<void>(), 0, counters, *stream_);
}

absl::Status CudaOps::DecodeAttention(const AttentionArgs& a, const SequenceRows& sequence, CudaRows& rows) {
  // Room for the longest sequence at once: a later recording finds the memory there.
  const int64_t most_splits = SplitsFor(sequence.cache->capacity());
  SF_RETURN_IF_ERROR(ReserveSplits(a.num_heads * most_splits * (a.head_dim + 2), a.num_kv_heads));
  const auto data = [](const Buffer* b) { return static_cast<const CudaBuffer*>(b)->data(); };
  const auto& out = static_cast<const CudaActivation&>(*a.out);
  SF_RETURN_IF_ERROR(
      attention::RunDecode({.num_heads = a.num_heads,
                            .num_kv_heads = a.num_kv_heads,
                            .head_dim = a.head_dim,
                            .q = data(a.q),
                            .new_k = data(a.k),
                            .new_v = data(a.v),
                            .cos = step_.rope == nullptr ? nullptr : step_.rope->cos.as<float>(),
                            .sin = step_.rope == nullptr ? nullptr : step_.rope->sin.as<float>(),
                            .first = &step_.state.as<StepState>()->at.first,
                            .k = rows.k.as<float>() + a.layer * rows.layer_floats,
                            .v = rows.v.as<float>() + a.layer * rows.layer_floats,
                            .scale = a.scale,
                            .window = a.window,
                            .splits = step_.splits,
                            .partial = step_.partial.as<float>(),
                            .finished = step_.finished.as<unsigned>(),
                            .o = out.buffer.data()},
                           *stream_));
  step_.rope = nullptr;
  return absl::OkStatus();
}

absl::StatusOr<CudaPages*> CudaOps::PagesOf(const SequenceRows& sequence) {
  KvCache& cache = *sequence.cache;
  if (cache.device() == nullptr) {
    SF_ASSIGN_OR_RETURN(auto pages,
                        CudaPages::Make(*cache.pages(), cache.capacity(), sequence.first, *stream_));
    cache.set_device(std::move(pages));
  }
  return static_cast<CudaPages*>(cache.device());
}

absl::Status CudaOps::AttendPaged(const AttentionArgs& a, const SequenceRows& s) {
  SF_ASSIGN_OR_RETURN(CudaPages* const pages, PagesOf(s));
  if (!step_.active) SF_RETURN_IF_ERROR(pages->StepBack(a.layer, s.first, rope_, *stream_));
  for (int64_t from = 0; from < s.rows; from += CudaPages::kChunkRows) {
    const SequenceRows part = {.cache = s.cache,
                               .first = s.first + from,
                               .begin = s.begin + from,
                               .rows = std::min(CudaPages::kChunkRows, s.rows - from)};
    SF_RETURN_IF_ERROR(AttendPages(a, *pages, part));
    if (!step_.active) pages->Settle(a.layer, part.first + part.rows);
  }
  return absl::OkStatus();
}

// Rows of the call appended to the pages, then attending.
absl::Status CudaOps::AttendPages(const AttentionArgs& a, CudaPages& pages, const SequenceRows& part) {
  const kernels::CudaKvLayer layer = pages.Layer(a.layer, rope_);
  const kernels::KvPlace at = {static_cast<int32_t>(part.first),
                               static_cast<int32_t>(pages.first_row_page(a.layer))};
  const kernels::KvPlace* const device_at = step_.active ? &step_.state.as<StepState>()->at : nullptr;
  const int64_t width = a.num_kv_heads * a.head_dim, q_width = a.num_heads * a.head_dim;
  const auto data = [](const Buffer* b) { return static_cast<const CudaBuffer*>(b)->data(); };
  SF_RETURN_IF_ERROR(
      kernels::AppendRows({.m = part.rows,
                           .k = data(a.k) + part.begin * width,
                           .v = data(a.v) + part.begin * width,
                           .layer = layer,
                           .at = at,
                           .device_at = device_at,
                           .clamped = &counters_.as<kernels::quantize_s8r_f32::CudaCounters>()->saturated},
                          *stream_));
  paged::CudaParams p = {.m = part.rows,
                         .num_heads = a.num_heads,
                         .q = data(a.q) + part.begin * q_width,
                         .layer = layer,
                         .at = at,
                         .device_at = device_at,
                         .scale = a.scale,
                         .window = a.window,
                         .o = static_cast<CudaActivation&>(*a.out).buffer.data() + part.begin * q_width};
  const bool decodes = paged::CanDecode(p);
  // One token: as many splits for its whole sequence, so that one recording serves it.
  const int64_t positions = part.rows == 1 ? part.cache->capacity() : part.first + part.rows;
  p.splits = paged::SplitsFor(p, positions, decodes ? device_.num_sms : 2 * int64_t{device_.num_sms});
  if (p.splits > 1) {
    SF_RETURN_IF_ERROR(ReserveSplits(paged::PartialFloats(part.rows, a.num_heads, a.head_dim, p.splits),
                                     paged::NumCounters(part.rows, a.num_heads)));
    p.partial = step_.partial.as<float>();
    p.finished = step_.finished.as<unsigned>();
  }
  return decodes ? paged::RunDecode(p, *stream_) : paged::RunCuda(p, *stream_);
}

}  // namespace spikefold
