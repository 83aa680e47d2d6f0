#include "calib/observers/life_observer.h"

#include <algorithm>
#include <cmath>

#include "calib/median.h"

namespace spikefold {
namespace {

constexpr int64_t kBlock = 16;  // channels: a cache line of a row

struct BlockSums {
  double power[4] = {0, 0, 0, 0};
  std::vector<uint32_t> histogram = std::vector<uint32_t>(kMagnitudeBins, 0);
};

void AddBlock(const TapRows& rows, int64_t first, int64_t width, float* channel_max, BlockSums& out) {
  float high[kBlock] = {};
  double p1[kBlock] = {}, p2[kBlock] = {}, p3[kBlock] = {}, p4[kBlock] = {};
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    const float* x = rows.data + t * rows.width + first;
    for (int64_t c = 0; c < width; ++c) {
      high[c] = std::max(high[c], std::fabs(x[c]));
      const double v = static_cast<double>(x[c]), v2 = v * v;
      p1[c] += v;
      p2[c] += v2;
      p3[c] += v2 * v;
      p4[c] += v2 * v2;
    }
    for (int64_t c = 0; c < width; ++c) ++out.histogram[static_cast<size_t>(MagnitudeBin(x[c]))];
  }
  for (int64_t c = 0; c < width; ++c) {
    channel_max[first + c] = high[c];
    out.power[0] += p1[c];
    out.power[1] += p2[c];
    out.power[2] += p3[c];
    out.power[3] += p4[c];
  }
}

// Excess kurtosis from sums of powers about zero.
double Kurtosis(const double* power, double n) {
  if (n < 1) return 0;
  const double m = power[0] / n, m2 = power[1] / n, m3 = power[2] / n, m4 = power[3] / n;
  const double variance = m2 - m * m;
  if (!(variance > 0)) return 0;
  const double fourth = m4 - 4 * m * m3 + 6 * m * m * m2 - 3 * m * m * m * m;
  return fourth / (variance * variance) - 3;
}

}  // namespace

double HistogramMedian(const std::vector<uint64_t>& histogram) {
  uint64_t total = 0, before = 0;
  for (const uint64_t n : histogram) total += n;
  for (size_t b = 0; b < histogram.size(); ++b) {
    if (2 * (before + histogram[b]) >= total && histogram[b] > 0) {
      const double center = static_cast<double>(MagnitudeBinCenter(static_cast<int>(b)));
      const double octave = std::exp2(std::floor(std::log2(center)));
      const double inside =
          (static_cast<double>(total) / 2 - static_cast<double>(before)) / static_cast<double>(histogram[b]);
      return center + (inside - 0.5) * octave / 8;
    }
    before += histogram[b];
  }
  return 0;
}

LifeObserver::LifeObserver(const ModelGraph& graph, ThreadPool& pool)
    : pool_(pool),
      hidden_(graph.config.hidden),
      layers_(static_cast<size_t>(graph.config.num_layers + 1)),
      channel_max_(static_cast<size_t>(graph.config.hidden)) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    layers_[l].channel_sum.assign(static_cast<size_t>(hidden_), 0);
    layers_[l].histogram.assign(kMagnitudeBins, 0);
    layers_[l].life.layer = static_cast<int>(l) - 1;
    for (int64_t& channel : layers_[l].life.top_channel) channel = -1;
  }
}

void LifeObserver::OnRows(const TapRows& rows) {
  Layer& layer = layers_[static_cast<size_t>(int64_t{rows.layer} + 1)];
  AddChannels(rows, layer);
  AddRowPeaks(rows, layer);
  AddTops(rows, layer);
  ++layer.windows;
}

void LifeObserver::AddChannels(const TapRows& rows, Layer& layer) {
  const int64_t blocks = (hidden_ + kBlock - 1) / kBlock;
  std::vector<BlockSums> sums(static_cast<size_t>(blocks));  // one a block: the result knows no threads
  pool_.ParallelFor(blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      AddBlock(rows, b * kBlock, std::min(kBlock, hidden_ - b * kBlock), channel_max_.data(),
               sums[static_cast<size_t>(b)]);
    }
  });
  for (const BlockSums& block : sums) {
    for (int p = 0; p < 4; ++p) layer.power[p] += block.power[p];
    for (size_t b = 0; b < block.histogram.size(); ++b) layer.histogram[b] += block.histogram[b];
  }
  layer.count += rows.num_rows * hidden_;
  for (size_t c = 0; c < channel_max_.size(); ++c)
    layer.channel_sum[c] += static_cast<double>(channel_max_[c]);
}

void LifeObserver::AddRowPeaks(const TapRows& rows, Layer& layer) {
  const size_t before = layer.row_peak.size();
  layer.row_peak.resize(before + static_cast<size_t>(rows.num_rows));
  layer.row_channel.resize(before + static_cast<size_t>(rows.num_rows));
  pool_.ParallelFor(rows.num_rows, 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = rows.data + t * rows.width;
      float peak = 0;
      int32_t channel = 0;
      for (int64_t c = 0; c < rows.width; ++c) {
        if (std::fabs(x[c]) > peak) {
          peak = std::fabs(x[c]);
          channel = static_cast<int32_t>(c);
        }
      }
      layer.row_peak[before + static_cast<size_t>(t)] = peak;
      layer.row_channel[before + static_cast<size_t>(t)] = channel;
    }
  });
}

// The three largest channels, each with its largest value and where it stood.
void LifeObserver::AddTops(const TapRows& rows, Layer& layer) {
  LayerLife& life = layer.life;
  for (int round = 0; round < 3; ++round) {
    const int64_t c = std::max_element(channel_max_.begin(), channel_max_.end()) - channel_max_.begin();
    const double value = static_cast<double>(channel_max_[static_cast<size_t>(c)]);
    channel_max_[static_cast<size_t>(c)] = -1;
    int slot = 0;
    while (slot < 3 && life.top_channel[slot] != c) ++slot;
    if (slot == 3) slot = 2;  // not among them: it can only replace the last
    if (value <= life.top[slot]) continue;
    int64_t position = 0;
    while (static_cast<double>(std::fabs(rows.data[position * rows.width + c])) != value) ++position;
    life.top[slot] = value;
    life.top_channel[slot] = c;
    life.top_position[slot] = rows.first_position + position;
    for (; slot > 0 && life.top[slot] > life.top[slot - 1]; --slot) {
      std::swap(life.top[slot], life.top[slot - 1]);
      std::swap(life.top_channel[slot], life.top_channel[slot - 1]);
      std::swap(life.top_position[slot], life.top_position[slot - 1]);
    }
  }
}

LifeTable LifeObserver::Table() const {
  LifeTable table;
  table.num_layers = static_cast<int64_t>(layers_.size()) - 1;
  table.hidden = hidden_;
  table.num_windows = layers_.back().windows;
  if (table.num_windows > 0) {
    table.rows_per_window = static_cast<int64_t>(layers_.back().row_peak.size()) / table.num_windows;
  }
  for (const Layer& layer : layers_) {
    std::vector<double> mean = layer.channel_sum;
    for (double& value : mean) value /= std::max<double>(1, static_cast<double>(layer.windows));
    table.channel_peak.push_back(std::move(mean));
    table.typical_peak.push_back(static_cast<double>(Median(layer.row_peak)));
    table.row_peak.push_back(layer.row_peak);
    table.row_channel.push_back(layer.row_channel);
    LayerLife life = layer.life;
    life.median = HistogramMedian(layer.histogram);
    life.kurtosis = Kurtosis(layer.power, static_cast<double>(layer.count));
    table.life.push_back(life);
  }
  return table;
}

}  // namespace spikefold
