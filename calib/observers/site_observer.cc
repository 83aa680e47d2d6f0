#include "calib/observers/site_observer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "formats/base/vector_clones.h"

namespace spikefold {
namespace {

// A block of channels is one cache line of a row; its histograms (15 KiB) stay in the first-level cache while
// all rows pass by.
constexpr int64_t kBlock = 16;
constexpr int64_t kRowGrain = 32;
constexpr int64_t kPrefetchRows = 8;  // rows lie pages apart, out of the hardware prefetcher's reach
constexpr int kShift = 20;
constexpr int kFirstBin = (127 - 12) << 3;  // as MagnitudeBin (calib/magnitude.cc), here without a call

// Lanes are channels.
SF_VECTOR_CLONES void AddFullBlock(const float* rows, int64_t num_rows, int64_t width, float* low,
                                   float* high, double* sum, double* sum_sq, uint32_t* histogram) {
  for (int64_t t = 0; t < num_rows; ++t) {
    const float* x = rows + t * width;
    __builtin_prefetch(rows + std::min(t + kPrefetchRows, num_rows - 1) * width);
    int32_t bin[kBlock];
    for (int64_t c = 0; c < kBlock; ++c) {
      low[c] = std::min(low[c], x[c]);
      high[c] = std::max(high[c], x[c]);
      const int32_t bits = static_cast<int32_t>(std::bit_cast<uint32_t>(x[c]) & 0x7fffffffu);
      bin[c] = std::min(std::max((bits >> kShift) - kFirstBin, 0), kMagnitudeBins - 1);
    }
    for (int64_t c = 0; c < kBlock; ++c) {
      const double v = static_cast<double>(x[c]);
      sum[c] += v;
      sum_sq[c] += v * v;
    }
    for (int64_t c = 0; c < kBlock; ++c) ++histogram[c * kMagnitudeBins + bin[c]];
  }
}

void AddBlock(const TapRows& rows, int64_t first, int64_t width, SiteStats& site) {
  const size_t k = static_cast<size_t>(first);
  float* low = site.min.data() + k;
  float* high = site.max.data() + k;
  double* sum = site.sum.data() + k;
  double* sum_sq = site.sum_sq.data() + k;
  uint32_t* histogram = site.histogram.data() + first * kMagnitudeBins;
  if (width == kBlock) {
    AddFullBlock(rows.data + first, rows.num_rows, rows.width, low, high, sum, sum_sq, histogram);
    return;
  }
  for (int64_t t = 0; t < rows.num_rows; ++t) {  // the last channels
    const float* x = rows.data + t * rows.width + first;
    for (int64_t c = 0; c < width; ++c) {
      low[c] = std::min(low[c], x[c]);
      high[c] = std::max(high[c], x[c]);
      sum[c] += static_cast<double>(x[c]);
      sum_sq[c] += static_cast<double>(x[c]) * static_cast<double>(x[c]);
      ++histogram[c * kMagnitudeBins + MagnitudeBin(x[c])];
    }
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
    site_of_[Slot(site.layer, site.value)] = site.id;
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
