#include "calib/window_run.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "calib/nonfinite.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Looks through what the taps see, which get nothing any more once a value is not finite.
class FiniteTaps : public Taps {
 public:
  FiniteTaps(Taps& taps, ThreadPool& pool) : taps_(taps), pool_(pool) {}
  bool Wants(int layer, ValueKind value) const override { return taps_.Wants(layer, value); }
  bool WantsAttention(int layer) const override { return taps_.WantsAttention(layer); }
  void OnAttention(const TapAttention& attention) override {
    if (!found_.has_value()) taps_.OnAttention(attention);
  }
  void OnRows(const TapRows& rows) override {
    if (found_.has_value()) return;
    const int64_t at = FindNonFinite(rows.data, rows.num_rows, rows.width, pool_);
    if (at < 0) return taps_.OnRows(rows);
    found_ = NonFinitePlace{.layer = rows.layer,
                            .value = rows.value,
                            .row = rows.first_position + at / rows.width,
                            .channel = at % rows.width,
                            .is = rows.data[at]};
  }
  const std::optional<NonFinitePlace>& found() const { return found_; }  // the row counts the prefix

 private:
  Taps& taps_;
  ThreadPool& pool_;
  std::optional<NonFinitePlace> found_;
};

}  // namespace

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
  FiniteTaps finite(taps, model.pool());
  for (int64_t w = 0; w < count; ++w) {
    if (!Report(progress, what, w, count)) {
      return absl::CancelledError(absl::StrCat(what, ": stopped after ", w, " of ", count, " windows"));
    }
    const auto& window = windows[static_cast<size_t>(w)];
    cache.Reset();
    SF_RETURN_IF_ERROR(
        Forward(model, window, cache,
                absl::MakeSpan(hidden).subspan(0, window.size() * static_cast<size_t>(config.hidden)),
                {.taps = &finite}));
    if (!finite.found().has_value()) continue;
    NonFinitePlace place = *finite.found();
    place.window = w;
    place.row -= prefix ? prefix->size() : 0;
    place.token = window[static_cast<size_t>(place.row)];
    return NonFiniteError(model.graph(), what, place);
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
