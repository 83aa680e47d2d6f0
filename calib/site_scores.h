// How far the rows of a linear input stand above and below an ordinary row.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "calib/census.h"
#include "formats/base/thread_pool.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

// PrefixQuant's thresholds on r_t = row peak over the window's median row peak (2410.05265).
inline constexpr double kUpperRow = 64, kLowerRow = 1.0 / 8;

struct SiteScore {
  double score = 0;  // mean over windows of max_t r_t (2405.14428)
  double absmax = 0, median_peak = 0;
  double upper_per_window = 0, lower_per_window = 0;
};
// `row_peak` holds whole windows of `window_length` rows.
SiteScore ScoreSite(absl::Span<const float> row_peak, int64_t window_length);

// Keeps the row peaks of every site and nothing else.
class RowPeakObserver : public Taps {
 public:
  RowPeakObserver(const ModelGraph& graph, ThreadPool& pool);
  bool Wants(int layer, ValueKind value) const override;
  void OnRows(const TapRows& rows) override;
  const std::vector<std::vector<float>>& row_peaks() const { return row_peaks_; }  // [num sites]
  double LargestScore(int64_t window_length) const;                                // over all sites

 private:
  int SiteAt(int layer, ValueKind value) const;
  const ModelGraph& graph_;
  ThreadPool& pool_;
  std::vector<std::vector<float>> row_peaks_;
};

}  // namespace spikefold
