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
  const ModelConfig& c = *a.config;
  const int64_t first = a.cache->length();
  step_.paged = a.cache->pages() != nullptr;
  CudaPages* const pages = step_.paged ? static_cast<CudaPages*>(a.cache->device()) : nullptr;
  if (step_.paged ? pages == nullptr || pages->StepsBack(0, first)
                  : !attention::CanDecode(c.num_heads, c.num_kv_heads, c.head_dim)) {
    return walk();
  }
  step_.splits = step_.paged ? 0 : SplitsFor(first + 1);  // those of pages do not grow
  SF_RETURN_IF_ERROR(step_.host.Reserve(sizeof(StepState)));
  SF_RETURN_IF_ERROR(step_.state.Reserve(sizeof(StepState)));
  // The copy of the token before has been waited for: a step's results are read before the next.
  *step_.host.as<StepState>() = {.token = a.token, .at = {.first = static_cast<int32_t>(first)}};
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
  auto* const rows = static_cast<CudaSequence*>(a.cache->device());
  if (rows == nullptr || rows->valid_at != now()) {
    if (rows != nullptr) rows->steps.clear();
    const absl::Status status = walk();
    if (status.ok()) static_cast<CudaSequence*>(a.cache->device())->valid_at = now();
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

absl::Status CudaOps::DecodeAttention(const AttentionArgs& a, CudaRows& rows) {
  // Room for the longest sequence at once: a later recording finds the memory there.
  const int64_t most_splits = SplitsFor(a.cache->capacity());
  SF_RETURN_IF_ERROR(step_.partial.Reserve(static_cast<size_t>(a.num_heads * most_splits * (a.head_dim + 2)) *
                                           sizeof(float)));
  const size_t counters = static_cast<size_t>(a.num_kv_heads) * sizeof(unsigned);
  if (step_.finished.bytes() < counters) {
    SF_RETURN_IF_ERROR(step_.finished.Reserve(counters));
    SF_RETURN_IF_ERROR(cuda::Fill(step_.finished.as<void>(), 0, counters, *stream_));
  }
  const auto data = [](const Buffer* b) { return static_cast<const CudaBuffer*>(b)->data(); };
  auto& out = static_cast<CudaActivation&>(*a.out);
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
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(a.rows, *a.form, out, false));
  return Finish(target, out);
}

absl::StatusOr<CudaPages*> CudaOps::PagesOf(KvCache& cache, const AttentionArgs& a) {
  if (cache.device() == nullptr) {
    SF_ASSIGN_OR_RETURN(auto pages, CudaPages::Make(*cache.pages(), cache.capacity(), a.first, *stream_));
    cache.set_device(std::move(pages));
  }
  return static_cast<CudaPages*>(cache.device());
}

absl::Status CudaOps::PagedAttention(const AttentionArgs& a) {
  SF_ASSIGN_OR_RETURN(CudaPages* const pages, PagesOf(*a.cache, a));
  if (!step_.active) SF_RETURN_IF_ERROR(pages->StepBack(a.layer, a.first, rope_, *stream_));
  for (int64_t from = 0; from < a.rows; from += CudaPages::kChunkRows) {
    const int64_t rows = std::min(CudaPages::kChunkRows, a.rows - from);
    SF_RETURN_IF_ERROR(AttendPages(a, *pages, from, rows));
    if (!step_.active) pages->Settle(a.layer, a.first + from + rows);
  }
  auto& out = static_cast<CudaActivation&>(*a.out);
  SF_ASSIGN_OR_RETURN(const Target target, TargetOf(a.rows, *a.form, out, false));
  return Finish(target, out);
}

// Rows [from, from + rows) of the call: appended, then attending.
absl::Status CudaOps::AttendPages(const AttentionArgs& a, CudaPages& pages, int64_t from, int64_t rows) {
  const kernels::CudaKvLayer layer = pages.Layer(a.layer, rope_);
  const kernels::KvPlace at = {static_cast<int32_t>(a.first + from),
                               static_cast<int32_t>(pages.first_row_page(a.layer))};
  const kernels::KvPlace* const device_at = step_.active ? &step_.state.as<StepState>()->at : nullptr;
  const int64_t width = a.num_kv_heads * a.head_dim, q_width = a.num_heads * a.head_dim;
  const auto data = [](const Buffer* b) { return static_cast<const CudaBuffer*>(b)->data(); };
  SF_RETURN_IF_ERROR(
      kernels::AppendRows({.m = rows,
                           .k = data(a.k) + from * width,
                           .v = data(a.v) + from * width,
                           .layer = layer,
                           .at = at,
                           .device_at = device_at,
                           .clamped = &counters_.as<kernels::quantize_s8r_f32::CudaCounters>()->saturated},
                          *stream_));
  paged::CudaParams p = {.m = rows,
                         .num_heads = a.num_heads,
                         .q = data(a.q) + from * q_width,
                         .layer = layer,
                         .at = at,
                         .device_at = device_at,
                         .scale = a.scale,
                         .window = a.window,
                         .o = static_cast<CudaActivation&>(*a.out).buffer.data() + from * q_width};
  const bool decodes = paged::CanDecode(p);
  // One token: as many splits for its whole sequence, so that one recording serves it.
  const int64_t positions = rows == 1 ? a.cache->capacity() : a.first + from + rows;
  p.splits = paged::SplitsFor(p, positions, decodes ? device_.num_sms : 2 * int64_t{device_.num_sms});
  if (p.splits > 1) {
    const int64_t floats = paged::PartialFloats(rows, a.num_heads, a.head_dim, p.splits);
    SF_RETURN_IF_ERROR(step_.partial.Reserve(static_cast<size_t>(floats) * sizeof(float)));
    const size_t counters = static_cast<size_t>(paged::NumCounters(rows, a.num_heads)) * sizeof(unsigned);
    if (step_.finished.bytes() < counters) {
      SF_RETURN_IF_ERROR(step_.finished.Reserve(counters));
      SF_RETURN_IF_ERROR(cuda::Fill(step_.finished.as<void>(), 0, counters, *stream_));
    }
    p.partial = step_.partial.as<float>();
    p.finished = step_.finished.as<unsigned>();
  }
  return decodes ? paged::RunDecode(p, *stream_) : paged::RunCuda(p, *stream_);
}

}  // namespace spikefold
