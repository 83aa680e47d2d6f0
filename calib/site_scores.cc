#include "calib/site_scores.h"

#include <algorithm>

#include "calib/median.h"
#include "calib/observers/site_observer.h"

namespace spikefold {

SiteScore ScoreSite(absl::Span<const float> row_peak, int64_t window_length) {
  SiteScore out;
  const int64_t windows = window_length > 0 ? static_cast<int64_t>(row_peak.size()) / window_length : 0;
  if (windows == 0) return out;
  for (int64_t w = 0; w < windows; ++w) {
    const auto rows =
        row_peak.subspan(static_cast<size_t>(w * window_length), static_cast<size_t>(window_length));
    const double typical = static_cast<double>(Median(std::vector<float>(rows.begin(), rows.end())));
    double largest = 0;
    for (const float peak : rows) {
      const double r = typical > 0 ? static_cast<double>(peak) / typical : 1;
      largest = std::max(largest, r);
      out.upper_per_window += r > kUpperRow;
      out.lower_per_window += r < kLowerRow;
    }
    out.score += largest;
  }
  const double n = static_cast<double>(windows);
  out.score /= n;
  out.upper_per_window /= n;
  out.lower_per_window /= n;
  out.absmax = static_cast<double>(*std::max_element(row_peak.begin(), row_peak.end()));
  out.median_peak = static_cast<double>(Median(std::vector<float>(row_peak.begin(), row_peak.end())));
  return out;
}

RowPeakObserver::RowPeakObserver(const ModelGraph& graph, ThreadPool& pool)
    : graph_(graph), pool_(pool), row_peaks_(graph.sites.size()) {}

int RowPeakObserver::SiteAt(int layer, ValueKind value) const {
  for (const Site& site : graph_.sites) {
    if (site.layer == layer && site.value == value) return site.id;
  }
  return -1;
}
bool RowPeakObserver::Wants(int layer, ValueKind value) const { return SiteAt(layer, value) >= 0; }
void RowPeakObserver::OnRows(const TapRows& rows) {
  AppendRowPeaks(rows.data, rows.num_rows, rows.width, pool_,
                 row_peaks_[static_cast<size_t>(SiteAt(rows.layer, rows.value))]);
}

double RowPeakObserver::LargestScore(int64_t window_length) const {
  double largest = 0;
  for (const auto& peaks : row_peaks_) largest = std::max(largest, ScoreSite(peaks, window_length).score);
  return largest;
}

}  // namespace spikefold
