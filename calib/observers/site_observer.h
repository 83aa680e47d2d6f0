// Ranges, sums, magnitude histograms and row peaks of every linear input.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/stats.h"
#include "formats/base/thread_pool.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

class SiteObserver : public Taps {
 public:
  // Rows are added up over all forward passes; both references outlive the observer.
  SiteObserver(const ModelGraph& graph, ThreadPool& pool);

  bool Wants(int layer, ValueKind value) const override { return SiteAt(layer, value) >= 0; }
  void OnRows(const TapRows& rows) override;

  const std::vector<SiteStats>& sites() const { return sites_; }
  std::vector<SiteStats> Take() { return std::move(sites_); }

 private:
  // Of site_of_; layer -1 is before the first.
  static size_t Slot(int layer, ValueKind value) {
    return static_cast<size_t>((int64_t{layer} + 1) * kNumValues + static_cast<int64_t>(value));
  }
  int SiteAt(int layer, ValueKind value) const { return site_of_[Slot(layer, value)]; }
  static constexpr int kNumValues = static_cast<int>(ValueKind::kLogits) + 1;

  ThreadPool& pool_;
  std::vector<int> site_of_;  // [num_layers + 1, kNumValues] index of the site, -1: none
  std::vector<SiteStats> sites_;
};

// |x| maximum of each of `rows` rows, appended to `out`.
void AppendRowPeaks(const float* data, int64_t rows, int64_t width, ThreadPool& pool,
                    std::vector<float>& out);

}  // namespace spikefold
