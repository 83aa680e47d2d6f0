#include "calib/nonfinite.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 16;
constexpr uint32_t kExponent = 0x7f800000u;  // all ones: infinite or NaN

// By the exponent bits, so that the loop vectorises.
bool AllFinite(const float* x, int64_t count) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad |= (std::bit_cast<uint32_t>(x[i]) & kExponent) == kExponent ? 1 : 0;
  return bad == 0;
}

}  // namespace

int64_t FindNonFinite(const float* x, int64_t rows, int64_t width, ThreadPool& pool) {
  std::atomic<int64_t> first{rows};
  pool.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (AllFinite(x + t * width, width)) continue;
      int64_t known = first.load();
      while (t < known && !first.compare_exchange_weak(known, t)) {
      }
      return;
    }
  });
  if (first == rows) return -1;
  int64_t at = first * width;
  while (std::isfinite(x[at])) ++at;
  return at;
}

absl::Status NonFiniteError(const ModelGraph& graph, absl::string_view what, const NonFinitePlace& place) {
  std::string subject = place.layer >= 0
                            ? absl::StrCat("layers.", place.layer, ".", ValueKindName(place.value))
                            : std::string(ValueKindName(place.value));
  for (const Site& site : graph.sites) {
    if (site.layer != place.layer || site.value != place.value) continue;
    absl::StrAppend(&subject, ", the input of ",
                    graph.nodes[static_cast<size_t>(site.linears.front())].module);
  }
  return absl::DataLossError(
      absl::StrCat(what, ": ", subject, ", is ", std::isnan(place.is) ? "NaN" : "infinite", " in channel ",
                   place.channel, " at token ", place.row, " (id ", place.token, ") of window ", place.window,
                   "; the model overflows on this text: use another text, or repair the layer's weights"));
}

absl::Status CheckSiteFinite(const ModelGraph& graph, const Site& site, absl::Span<const float> x,
                             int64_t window_index, absl::Span<const int32_t> window, absl::string_view what,
                             ThreadPool& pool) {
  const int64_t at = FindNonFinite(x.data(), static_cast<int64_t>(window.size()), site.k, pool);
  if (at < 0) return absl::OkStatus();
  const int64_t row = at / site.k;
  return NonFiniteError(graph, what,
                        {.layer = site.layer,
                         .value = site.value,
                         .window = window_index,
                         .row = row,
                         .token = window[static_cast<size_t>(row)],
                         .channel = at % site.k,
                         .is = x[static_cast<size_t>(at)]});
}

}  // namespace spikefold
