// Where a model stops computing with numbers: calibration on such values would measure nothing.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "formats/base/thread_pool.h"
#include "formats/model_graph.h"

namespace spikefold {

// The first value of x [rows, width] that is not finite, as row * width + channel; -1: all are finite.
int64_t FindNonFinite(const float* x, int64_t rows, int64_t width, ThreadPool& pool);

struct NonFinitePlace {
  int layer = -1;
  ValueKind value = ValueKind::kResidual;
  int64_t window = 0, row = 0;  // of the text; the row is the token's place in the window
  int32_t token = 0;
  int64_t channel = 0;
  float is = 0;  // NaN or infinite
};
// DataLoss naming the value, the linear that reads it, window, token and channel. `what`: what was being
// done.
absl::Status NonFiniteError(const ModelGraph& graph, absl::string_view what, const NonFinitePlace& place);

// x [window.size(), site.k], a site's rows of one window: DataLoss as above if any value is not finite.
absl::Status CheckSiteFinite(const ModelGraph& graph, const Site& site, absl::Span<const float> x,
                             int64_t window_index, absl::Span<const int32_t> window, absl::string_view what,
                             ThreadPool& pool);

}  // namespace spikefold
