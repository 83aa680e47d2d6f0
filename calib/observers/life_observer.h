// The residual stream layer by layer: peaks by row and by channel, median, kurtosis.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/census.h"
#include "formats/base/thread_pool.h"
#include "kernels/runtime/tap.h"

namespace spikefold {

// Residuals are counted from the embedding: index 0 is the embedding, index l + 1 the residual after layer l.
struct LifeTable {
  int64_t num_layers = 0, hidden = 0, num_windows = 0, rows_per_window = 0;
  std::vector<std::vector<double>> channel_peak;  // [num_layers + 1][hidden] mean over windows of max_t |h|
  std::vector<double> typical_peak;               // [num_layers + 1] median over rows of max_c |h|
  std::vector<LayerLife> life;                    // [num_layers + 1]
  std::vector<std::vector<float>> row_peak;       // [num_layers + 1][rows seen] max_c |h|
  std::vector<std::vector<int32_t>> row_channel;  // the channel of that maximum
};

class LifeObserver : public Taps {
 public:
  // All windows have equal length. The pool outlives the observer.
  LifeObserver(const ModelGraph& graph, ThreadPool& pool);
  bool Wants(int, ValueKind value) const override { return value == ValueKind::kResidual; }
  void OnRows(const TapRows& rows) override;  // one call a layer and window
  LifeTable Table() const;

 private:
  struct Layer {
    std::vector<double> channel_sum;  // [hidden] of window maxima
    std::vector<float> row_peak;
    std::vector<int32_t> row_channel;
    std::vector<uint64_t> histogram;  // [kMagnitudeBins]
    double power[4] = {0, 0, 0, 0};   // sums of h, h^2, h^3, h^4
    int64_t count = 0, windows = 0;
    LayerLife life;
  };
  void AddChannels(const TapRows& rows, Layer& layer);
  void AddRowPeaks(const TapRows& rows, Layer& layer);
  void AddTops(const TapRows& rows, Layer& layer);

  ThreadPool& pool_;
  int64_t hidden_;
  std::vector<Layer> layers_;       // [num_layers + 1]
  std::vector<float> channel_max_;  // [hidden] of the window at hand
};

// The value below which half of the counts of a magnitude histogram lie, linear inside a bin.
double HistogramMedian(const std::vector<uint64_t>& histogram);

}  // namespace spikefold
