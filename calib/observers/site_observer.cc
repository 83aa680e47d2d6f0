#include "calib/observers/site_observer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "formats/base/vector_clones.h"

namespace spikefold {
namespace {

// A block of channels is a few cache lines of a row; its histograms, of 16 bits here (30 KiB), stay in the
// first-level cache while all rows pass by.
constexpr int64_t kLine = 16, kBlock = 4 * kLine;
constexpr int64_t kMostRows = 65535;  // that a bin of 16 bits counts
constexpr int64_t kRowGrain = 32;
constexpr int64_t kPrefetchRows = 8;  // rows lie pages apart, out of the hardware prefetcher's reach
constexpr int kShift = 20;
constexpr int kFirstBin = (127 - 12) << 3;  // as MagnitudeBin (calib/magnitude.cc), here without a call

using Floats = float __attribute__((vector_size(32)));
using Ints = int32_t __attribute__((vector_size(32)));
using Doubles = double __attribute__((vector_size(64)));
constexpr int64_t kLanes = 8;

// Lanes are channels. `counts`: [kBlock, kMagnitudeBins] zeros, and again at the end. In explicit vectors: of
// loops the compiler unrolls those in float64 before it sees what they could be.
SF_VECTOR_CLONES void AddFullBlock(const float* rows, int64_t num_rows, int64_t width, float* low,
                                   float* high, double* sum, double* sum_sq, uint32_t* histogram,
                                   uint16_t* counts) {
  for (int64_t t = 0; t < num_rows; ++t) {
    const float* const row = rows + t * width;
    const int64_t ahead = std::min(kPrefetchRows, num_rows - 1 - t) * width;
    for (int64_t c = 0; c < kBlock; c += kLanes) {
      if (c % kLine == 0) __builtin_prefetch(row + c + ahead);
      Floats x, lowest, highest;
      Ints bin;
      Doubles sums, sums_sq;
      std::memcpy(&x, row + c, sizeof x);
      std::memcpy(&bin, row + c, sizeof bin);
      std::memcpy(&lowest, low + c, sizeof lowest);
      std::memcpy(&highest, high + c, sizeof highest);
      std::memcpy(&sums, sum + c, sizeof sums);
      std::memcpy(&sums_sq, sum_sq + c, sizeof sums_sq);
      lowest = x < lowest ? x : lowest;
      highest = x > highest ? x : highest;
      bin = ((bin & 0x7fffffff) >> kShift) - kFirstBin;
      bin = bin < 0 ? Ints{} : bin;
      bin = bin < kMagnitudeBins ? bin : Ints{} + (kMagnitudeBins - 1);
      const Doubles v = __builtin_convertvector(x, Doubles);
      sums += v;
      sums_sq += v * v;
      std::memcpy(low + c, &lowest, sizeof lowest);
      std::memcpy(high + c, &highest, sizeof highest);
      std::memcpy(sum + c, &sums, sizeof sums);
      std::memcpy(sum_sq + c, &sums_sq, sizeof sums_sq);
      for (int64_t i = 0; i < kLanes; ++i) ++counts[(c + i) * kMagnitudeBins + bin[i]];
    }
  }
  for (int64_t i = 0; i < kBlock * kMagnitudeBins; ++i) histogram[i] += counts[i];
  std::fill_n(counts, kBlock * kMagnitudeBins, uint16_t{0});
}

void AddBlock(const TapRows& rows, int64_t first, int64_t width, SiteStats& site, uint16_t* counts) {
  const size_t k = static_cast<size_t>(first);
  float* low = site.min.data() + k;
  float* high = site.max.data() + k;
  double* sum = site.sum.data() + k;
  double* sum_sq = site.sum_sq.data() + k;
  uint32_t* histogram = site.histogram.data() + first * kMagnitudeBins;
  if (width == kBlock) {
    for (int64_t t = 0; t < rows.num_rows; t += kMostRows) {
      AddFullBlock(rows.data + t * rows.width + first, std::min(kMostRows, rows.num_rows - t), rows.width,
                   low, high, sum, sum_sq, histogram, counts);
    }
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
  float lanes[kLine] = {};
  int64_t c = 0;
  for (; c + kLine <= width; c += kLine) {
    for (int64_t i = 0; i < kLine; ++i) lanes[i] = std::max(lanes[i], std::fabs(x[c + i]));
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
  pool_.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<uint16_t> counts(static_cast<size_t>(kBlock * kMagnitudeBins));
    for (int64_t b = begin; b < end; ++b) {
      AddBlock(rows, b * kBlock, std::min(kBlock, rows.width - b * kBlock), site, counts.data());
    }
  });
  AppendRowPeaks(rows.data, rows.num_rows, rows.width, pool_, site.row_peak);
  site.rows += rows.num_rows;
}

}  // namespace spikefold
