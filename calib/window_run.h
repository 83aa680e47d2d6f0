// Running windows of text through a model for observers: no logits, one cache, behind a prefix or not.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "formats/base/progress.h"
#include "kernels/runtime/forward.h"

namespace spikefold {

using Windows = std::vector<std::vector<int32_t>>;

// Hands each value to every tap that wants it.
class TapFan : public Taps {
 public:
  explicit TapFan(std::vector<Taps*> taps) : taps_(std::move(taps)) {}
  bool Wants(int layer, ValueKind value) const override;
  void OnRows(const TapRows& rows) override;
  bool WantsAttention(int layer) const override;
  void OnAttention(const TapAttention& attention) override;

 private:
  std::vector<Taps*> taps_;
};

// Runs every window from an empty cache (behind `prefix`, if not null). `after_window(index)` may be null.
// Cancelled when `progress` says so; DataLoss naming the place where a value that a tap wants is not finite.
absl::Status RunWindows(const RuntimeModel& model, const Windows& windows, const KvPrefix* prefix, Taps& taps,
                        absl::string_view what, const Progress& progress);

// The windows with `token` before each, cut to the length they had.
Windows WithFirstToken(const Windows& windows, int32_t token);
// The first `length` tokens of the first `count` windows.
Windows Shorter(const Windows& windows, int64_t count, int64_t length);

}  // namespace spikefold
