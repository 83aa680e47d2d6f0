// One token a sequence at a time: the 300 launches are recorded once, and the recording is started for every
// further step of as many sequences. Tokens, positions and the caches' addresses lie in device memory; the
// attention's number of splits, which fixes the grid, grows in powers of two, with a recording for each.
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

// What the step's kernels read from device memory.
absl::Status CudaOps::SetStep(const StepArgs& a) {
  const int64_t count = static_cast<int64_t>(a.sequences.size());
  const int64_t width = a.config->num_kv_heads * a.config->head_dim;
  if (count > step_.room) {
    step_.room = 0;  // until both are there
    SF_RETURN_IF_ERROR(step_.host_memory.Reserve(StepState::Bytes(count)));
    SF_RETURN_IF_ERROR(step_.memory.Reserve(StepState::Bytes(count)));
    step_.room = count;
    step_.host = StepState(step_.host_memory.as<void>(), count);
    step_.state = StepState(step_.memory.as<void>(), count);
  }
  // The copy of the step before has been waited for: a step's results are read before the next.
  for (int64_t i = 0; i < count; ++i) {
    const SequenceRows& sequence = a.sequences[static_cast<size_t>(i)];
    step_.host.tokens[i] = a.tokens[static_cast<size_t>(i)];
    step_.host.positions[i] = static_cast<int32_t>(sequence.first);
    step_.host.places[i] = {.first = step_.host.positions[i]};
    step_.host.caches[i] = {};
    if (sequence.cache->pages() == nullptr) {
      SF_ASSIGN_OR_RETURN(const CudaRows* rows, RowsOf(sequence, width));
      step_.host.caches[i] = {rows->k.as<float>(), rows->v.as<float>(), rows->layer_floats};
    } else if (sequence.cache->device() != nullptr) {
      const auto& pages = static_cast<const CudaPages&>(*sequence.cache->device());
      step_.host.places[i].first_row_page = static_cast<int32_t>(pages.first_row_page(0));
    }
  }
  return cuda::CopyIn(step_.memory.as<void>(), step_.host_memory.as<void>(), StepState::Bytes(step_.room),
                      *stream_);
}

// The attention's splits of the longest sequence, and room for them: before the walk, because a recorded one
// may not allocate.
absl::Status CudaOps::SetSplits(const StepArgs& a) {
  // As much as the sequences can need, so that no later step allocates, unless they will hardly need it.
  constexpr int64_t kMostFloats = int64_t{1} << 26;
  const ModelConfig& c = *a.config;
  int64_t most_splits = 1;
  for (const SequenceRows& sequence : a.sequences) {
    step_.splits = std::max(step_.splits, SplitsFor(sequence.first + 1));
    most_splits = std::max(most_splits, SplitsFor(sequence.cache->capacity()));
  }
  const int64_t count = static_cast<int64_t>(a.sequences.size());
  const int64_t floats = count * c.num_heads * (c.head_dim + 2);  // of a split
  const bool all = floats * most_splits <= kMostFloats;
  return ReserveSplits(floats * (all ? most_splits : step_.splits), count * c.num_kv_heads);
}

absl::StatusOr<CudaOps::StepPlan> CudaOps::PrepareStep(const StepArgs& a) {
  const ModelConfig& c = *a.config;
  const auto in_pages = [](const SequenceRows& sequence) { return sequence.cache->pages() != nullptr; };
  step_.paged = std::any_of(a.sequences.begin(), a.sequences.end(), in_pages);
  StepPlan plan = {.records = attention::CanDecode(c.num_heads, c.num_kv_heads, c.head_dim)};
  if (step_.paged) {  // one at a time, and on the device already
    const SequenceRows& only = a.sequences.front();
    if (a.sequences.size() == 1) plan.pages = static_cast<CudaPages*>(only.cache->device());
    plan.records = plan.pages != nullptr && !plan.pages->StepsBack(0, only.first);
  }
  if (plan.records || a.sequences.size() > 1) SF_RETURN_IF_ERROR(SetStep(a));
  if (!plan.records) return plan;
  step_.splits = 0;  // those of pages do not grow
  if (!step_.paged) SF_RETURN_IF_ERROR(SetSplits(a));
  step_.rope = nullptr;
  return plan;
}

// A recording holds addresses. Every one is of memory that was allocated before a walk of such a step that
// was not recorded, and no allocation has followed: then they are valid still. That walk has copied the
// tables of rotary embedding, which must not have grown since either (an evicting cache's do, as its text
// goes on).
absl::Status CudaOps::Step(const StepArgs& a, absl::FunctionRef<absl::Status()> walk) {
  SF_ASSIGN_OR_RETURN(const StepPlan plan, PrepareStep(a));
  if (!plan.records) return walk();
  step_.active = true;
  const absl::Status status =
      RunStep(plan.pages == nullptr ? step_.recordings : plan.pages->recordings, a, walk);
  step_.active = false;
  if (plan.pages != nullptr && status.ok()) plan.pages->SettleAll(a.sequences.front().first + 1);
  return status;
}

absl::Status CudaOps::RunStep(Recordings& recordings, const StepArgs& a,
                              absl::FunctionRef<absl::Status()> walk) {
  const auto now = [&] { return std::pair(cuda::NumAllocations(), a.rope_positions); };
  constexpr size_t kMostSteps = 256;  // a recording is some hundred kilobytes
  if (recordings.valid_at != now() || recordings.steps.size() > kMostSteps) recordings.steps.clear();
  const Recordings::Key key(static_cast<int64_t>(a.sequences.size()), step_.splits, a.finds_best);
  const auto [recorded, is_new] = recordings.steps.try_emplace(key);
  if (is_new) {  // a walk that may allocate: then the next one is not recorded either
    const auto before = now();
    const absl::Status status = walk();
    recordings.valid_at = now();
    if (!status.ok() || recordings.valid_at != before) recordings.steps.clear();
    return status;
  }
  Recordings::Step& step = recorded->second;
  if (!step.graph.has_value() && !step.refused) {
    absl::StatusOr<cuda::Graph> graph = cuda::Graph::Record(*stream_, walk);
    step.refused = !graph.ok();  // out of memory, say; nothing has run
    if (graph.ok()) step.graph = *std::move(graph);
  }
  return step.refused ? walk() : step.graph->Run(*stream_);
}

// Room for the partial results of a split attention; the counters are zeros.
absl::Status CudaOps::ReserveSplits(int64_t partial_floats, int64_t num_counters) {
  SF_RETURN_IF_ERROR(step_.partial.Reserve(static_cast<size_t>(partial_floats) * sizeof(float)));
  const size_t counters = static_cast<size_t>(num_counters) * sizeof(unsigned);
  if (step_.finished.bytes() >= counters) return absl::OkStatus();
  SF_RETURN_IF_ERROR(step_.finished.Reserve(counters));
  return cuda::Fill(step_.finished.as<void>(), 0, counters, *stream_);
}

absl::Status CudaOps::DecodeAttention(const AttentionArgs& a) {
  const auto data = [](const Buffer* b) { return static_cast<const CudaBuffer*>(b)->data(); };
  const auto& out = static_cast<const CudaActivation&>(*a.out);
  SF_RETURN_IF_ERROR(
      attention::RunDecode({.m = a.rows,
                            .num_heads = a.num_heads,
                            .num_kv_heads = a.num_kv_heads,
                            .head_dim = a.head_dim,
                            .q = data(a.q),
                            .new_k = data(a.k),
                            .new_v = data(a.v),
                            .cos = step_.rope == nullptr ? nullptr : step_.rope->cos.as<float>(),
                            .sin = step_.rope == nullptr ? nullptr : step_.rope->sin.as<float>(),
                            .positions = step_.state.positions,
                            .caches = step_.state.caches,
                            .layer = a.layer,
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
  const kernels::KvPlace* const device_at = step_.active ? step_.state.places : nullptr;
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
