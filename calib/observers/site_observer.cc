#include "calib/observers/site_observer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace spikefold {
namespace {

// A block of channels is one cache line of a row; its histograms (15 KiB) stay in the first-level cache while
// all rows pass by.
constexpr int64_t kBlock = 16;
constexpr int64_t kRowGrain = 32;
constexpr int64_t kPrefetchRows = 8;  // rows lie pages apart, out of the hardware prefetcher's reach
constexpr int kShift = 20;
constexpr int kFirstBin = (127 - 12) << 3;  // as MagnitudeBin (calib/magnitude.cc), here without a call

void AddBlock(const TapRows& rows, int64_t first, int64_t width, SiteStats& site) {
  float low[kBlock], high[kBlock];
  double sum[kBlock] = {}, sum_sq[kBlock] = {};
  for (int64_t c = 0; c < width; ++c) {
    low[c] = site.min[static_cast<size_t>(first + c)];
    high[c] = site.max[static_cast<size_t>(first + c)];
  }
  uint32_t* histogram = site.histogram.data() + first * kMagnitudeBins;
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    const float* x = rows.data + t * rows.width + first;
    __builtin_prefetch(rows.data + std::min(t + kPrefetchRows, rows.num_rows - 1) * rows.width + first);
    for (int64_t c = 0; c < width; ++c) {
      low[c] = std::min(low[c], x[c]);
      high[c] = std::max(high[c], x[c]);
      const double v = static_cast<double>(x[c]);
      sum[c] += v;
      sum_sq[c] += v * v;
    }
    for (int64_t c = 0; c < width; ++c) {
      const uint32_t bits = std::bit_cast<uint32_t>(x[c]) & 0x7fffffffu;
      const int bin = std::clamp(static_cast<int>(bits >> kShift) - kFirstBin, 0, kMagnitudeBins - 1);
      ++histogram[c * kMagnitudeBins + bin];
    }
  }
  for (int64_t c = 0; c < width; ++c) {
    const size_t k = static_cast<size_t>(first + c);
    site.min[k] = low[c];
    site.max[k] = high[c];
    site.sum[k] += sum[c];
    site.sum_sq[k] += sum_sq[c];
  }
}

float RowPeak(const float* x, int64_t width) {
  float lanes[kBlock] = {};
  int64_t c = 0;
  for (; c + kBlock <= width; c += kBlock) {
    for (int64_t i = 0; i < kBlock; ++i) lanes[i] = std::max(lanes[i], std::fabs(x[c + i]));
  }
  float peak = 0;
  for (; c < width; ++c) peak = std::max(peak, std::fabs(x[c]));
  for (const float lane : lanes) peak = std::max(peak, lane);
  return peak;
}

}  // namespace

void AppendRowPeaks(const float* data, int64_t rows, int64_t width, ThreadPool& pool,
                    std::vector<float>& out) {
  const size_t before = out.size();
  out.resize(before + static_cast<size_t>(rows));
  pool.ParallelFor(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      out[before + static_cast<size_t>(t)] = RowPeak(data + t * width, width);
  });
}

SiteObserver::SiteObserver(const ModelGraph& graph, ThreadPool& pool)
    : pool_(pool), site_of_(static_cast<size_t>((graph.config.num_layers + 1) * kNumValues), -1) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const Site& site : graph.sites) {
    site_of_[static_cast<size_t>((site.layer + 1) * kNumValues + static_cast<int>(site.value))] = site.id;
    const size_t k = static_cast<size_t>(site.k);
    sites_.push_back({.site = site.id,
                      .k = site.k,
                      .rows = 0,
                      .min = std::vector<float>(k, kInf),
                      .max = std::vector<float>(k, -kInf),
                      .sum = std::vector<double>(k, 0),
                      .sum_sq = std::vector<double>(k, 0),
                      .histogram = std::vector<uint32_t>(k * kMagnitudeBins, 0),
                      .weight_sq = {},
                      .row_peak = {}});
  }
}

void SiteObserver::OnRows(const TapRows& rows) {
  SiteStats& site = sites_[static_cast<size_t>(SiteAt(rows.layer, rows.value))];
  const int64_t blocks = (rows.width + kBlock - 1) / kBlock;
  pool_.ParallelFor(blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      AddBlock(rows, b * kBlock, std::min(kBlock, rows.width - b * kBlock), site);
    }
  });
  AppendRowPeaks(rows.data, rows.num_rows, rows.width, pool_, site.row_peak);
  site.rows += rows.num_rows;
}

}  // namespace spikefold
