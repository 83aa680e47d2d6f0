#include "kernels/runtime/cuda_kv.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {

using kernels::kPageTokens;

absl::StatusOr<std::unique_ptr<CudaPages>> CudaPages::Make(const KvPages& pages, int64_t capacity,
                                                           int64_t first, const cuda::Stream& stream) {
  auto out = std::make_unique<CudaPages>();
  out->format_ = pages.format();
  out->options_ = pages.options();
  out->num_pinned_ = pages.num_pinned();
  out->width_ = out->format_.num_kv_heads * out->format_.head_dim;
  if (first > out->num_pinned_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "backend \"cuda\": a cache in pages holds ", first, " rows that are not in device memory; only its ",
        out->num_pinned_, " pinned ones can be copied: run the text again with this backend"));
  }
  const int64_t kept = out->options_.recent + kPageTokens;
  out->ring_rows_ = (kept + kChunkRows + kPageTokens - 1) / kPageTokens * kPageTokens;
  const int64_t page_bytes = kernels::KvPageLayout(out->format_).page_bytes;
  const int64_t whole = std::max<int64_t>(1, (capacity - out->num_pinned_) / kPageTokens);
  int64_t bytes = 0;
  for (int layer = 0; layer < pages.num_layers(); ++layer) {
    LayerState state = {.reach = pages.Reach(layer), .pages_at = bytes};
    const int64_t living = (state.reach + KvPages::kStepBack + kept + kChunkRows) / kPageTokens + 3;
    state.page_slots = state.reach > 0 ? std::min(whole, living) : whole;
    bytes += state.page_slots * page_bytes;
    out->layers_.push_back(state);
  }
  const size_t layers = out->layers_.size(), row_bytes = static_cast<size_t>(out->width_) * sizeof(uint16_t);
  SF_RETURN_IF_ERROR(out->pages_.Reserve(static_cast<size_t>(bytes)));
  SF_RETURN_IF_ERROR(out->rows_.Reserve(2 * layers * static_cast<size_t>(out->ring_rows_) * row_bytes));
  const int64_t pinned_values = out->num_pinned_ * out->width_;
  SF_RETURN_IF_ERROR(
      out->pinned_.Reserve(2 * layers * static_cast<size_t>(pinned_values) * sizeof(uint16_t)));
  const size_t filled = static_cast<size_t>(first) * row_bytes;
  for (int layer = 0; layer < pages.num_layers() && filled > 0; ++layer) {
    uint16_t* const to = out->pinned_.as<uint16_t>() + 2 * layer * pinned_values;
    SF_RETURN_IF_ERROR(cuda::CopyIn(to, pages.pinned_k(layer), filled, stream));
    SF_RETURN_IF_ERROR(cuda::CopyIn(to + pinned_values, pages.pinned_v(layer), filled, stream));
  }
  if (out->options_.channels != nullptr) {
    const size_t channel_bytes = static_cast<size_t>(out->width_) * sizeof(float);
    SF_RETURN_IF_ERROR(out->channels_.Reserve(2 * layers * channel_bytes));
    for (size_t l = 0; l < layers; ++l) {
      float* const to = out->channels_.as<float>() + 2 * l * static_cast<size_t>(out->width_);
      SF_RETURN_IF_ERROR(cuda::CopyIn(to, out->options_.channels->scale[l].data(), channel_bytes, stream));
      SF_RETURN_IF_ERROR(
          cuda::CopyIn(to + out->width_, out->options_.channels->min[l].data(), channel_bytes, stream));
    }
  }
  return out;
}

kernels::CudaKvLayer CudaPages::Layer(int layer, const CudaConstants::Rope* rope) const {
  const LayerState& state = layers_[static_cast<size_t>(layer)];
  const int64_t pinned_values = num_pinned_ * width_, ring_values = ring_rows_ * width_;
  uint16_t* const pinned = pinned_.as<uint16_t>() + 2 * layer * pinned_values;
  uint16_t* const rows = rows_.as<uint16_t>() + 2 * layer * ring_values;
  const float* const channels =
      options_.channels == nullptr ? nullptr : channels_.as<float>() + 2 * layer * width_;
  return {.format = format_,
          .layout = kernels::KvPageLayout(format_),
          .num_pinned = num_pinned_,
          .pinned_k = pinned,
          .pinned_v = pinned + pinned_values,
          .pages = pages_.as<uint8_t>() + state.pages_at,
          .page_slots = state.page_slots,
          .rows_k = rows,
          .rows_v = rows + ring_values,
          .ring_rows = ring_rows_,
          .recent = options_.recent,
          .channels = {channels, channels == nullptr ? nullptr : channels + width_},
          .cos = rope == nullptr ? nullptr : rope->cos.as<float>(),
          .sin = rope == nullptr ? nullptr : rope->sin.as<float>(),
          .turned = options_.k_before_rope,
          .evict = options_.evict};
}

bool CudaPages::StepsBack(int layer, int64_t first) const {
  return first < PageBegin(layers_[static_cast<size_t>(layer)].first_row_page);
}

absl::Status CudaPages::StepBack(int layer, int64_t first, const CudaConstants::Rope* rope,
                                 const cuda::Stream& stream) {
  if (!StepsBack(layer, first)) return absl::OkStatus();
  LayerState& state = layers_[static_cast<size_t>(layer)];
  if (first <= num_pinned_) {  // a new start
    state.first_row_page = state.first_page = 0;
    return absl::OkStatus();
  }
  state.first_row_page = (first - num_pinned_) / kPageTokens;
  return kernels::RestoreRows(Layer(layer, rope), state.first_row_page,
                              first - PageBegin(state.first_row_page), stream);
}

void CudaPages::Settle(int layer, int64_t end) {
  LayerState& state = layers_[static_cast<size_t>(layer)];
  state.first_row_page =
      std::max(state.first_row_page, std::max<int64_t>(0, end - options_.recent - num_pinned_) / kPageTokens);
  if (state.reach == 0) return;
  const int64_t left = end + 1 - state.reach - KvPages::kStepBack;
  while (state.first_page < state.first_row_page && PageBegin(state.first_page + 1) <= left)
    ++state.first_page;
}

void CudaPages::SettleAll(int64_t end) {
  for (size_t layer = 0; layer < layers_.size(); ++layer) Settle(static_cast<int>(layer), end);
}

bool CudaPages::Truncate(int64_t length) {
  for (const LayerState& state : layers_) {
    const int64_t seen = state.reach > 0 ? std::max(num_pinned_, length + 1 - state.reach) : num_pinned_;
    if (PageBegin(state.first_page) > seen) return false;
  }
  return true;
}

}  // namespace spikefold
