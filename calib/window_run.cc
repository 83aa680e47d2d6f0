#include "calib/window_run.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {

bool TapFan::Wants(int layer, ValueKind value) const {
  return std::any_of(taps_.begin(), taps_.end(), [&](const Taps* t) { return t->Wants(layer, value); });
}
void TapFan::OnRows(const TapRows& rows) {
  for (Taps* tap : taps_) {
    if (tap->Wants(rows.layer, rows.value)) tap->OnRows(rows);
  }
}
bool TapFan::WantsAttention(int layer) const {
  return std::any_of(taps_.begin(), taps_.end(), [&](const Taps* t) { return t->WantsAttention(layer); });
}
void TapFan::OnAttention(const TapAttention& attention) {
  for (Taps* tap : taps_) {
    if (tap->WantsAttention(attention.layer)) tap->OnAttention(attention);
  }
}

absl::Status RunWindows(const RuntimeModel& model, const Windows& windows, const KvPrefix* prefix, Taps& taps,
                        absl::string_view what, const Progress& progress) {
  size_t longest = 0;
  for (const auto& window : windows) longest = std::max(longest, window.size());
  const ModelConfig& config = model.graph().config;
  KvCache cache(config, (prefix ? prefix->size() : 0) + static_cast<int64_t>(longest), prefix);
  std::vector<float> hidden(longest * static_cast<size_t>(config.hidden));
  const int64_t count = static_cast<int64_t>(windows.size());
  for (int64_t w = 0; w < count; ++w) {
    if (!Report(progress, what, w, count)) {
      return absl::CancelledError(absl::StrCat(what, ": stopped after ", w, " of ", count, " windows"));
    }
    const auto& window = windows[static_cast<size_t>(w)];
    cache.Reset();
    SF_RETURN_IF_ERROR(
        Forward(model, window, cache,
                absl::MakeSpan(hidden).subspan(0, window.size() * static_cast<size_t>(config.hidden)),
                {.taps = &taps}));
  }
  Report(progress, what, count, count);
  return absl::OkStatus();
}

Windows WithFirstToken(const Windows& windows, int32_t token) {
  Windows out = windows;
  for (auto& window : out) {
    window.insert(window.begin(), token);
    window.pop_back();
  }
  return out;
}

Windows Shorter(const Windows& windows, int64_t count, int64_t length) {
  Windows out;
  for (const auto& window : windows) {
    if (static_cast<int64_t>(out.size()) == count) break;
    out.emplace_back(window.begin(),
                     window.begin() + std::min<int64_t>(length, static_cast<int64_t>(window.size())));
  }
  return out;
}

}  // namespace spikefold
