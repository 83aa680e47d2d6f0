#include "quant/keep/columns.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "quant/rounding/activation_scale.h"

namespace spikefold {
namespace {

// The `count` channels of largest cost, ascending by index; ties go to the lower channel.
std::vector<int32_t> TopChannels(const std::vector<double>& cost, int count) {
  std::vector<int32_t> order(cost.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t n = std::min(order.size(), static_cast<size_t>(std::max(count, 0)));
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(n), order.end(),
                    [&](int32_t a, int32_t b) {
                      const double ca = cost[static_cast<size_t>(a)], cb = cost[static_cast<size_t>(b)];
                      return ca != cb ? ca > cb : a < b;
                    });
  order.resize(n);
  std::sort(order.begin(), order.end());
  return order;
}

// Smallest magnitude that all but a share of 0.001 of the channel's values stay below.
double HighQuantile(const SiteStats& stats, int64_t channel) {
  const uint32_t* counts = &stats.histogram[static_cast<size_t>(channel) * kMagnitudeBins];
  double above = 0;
  for (int b = kMagnitudeBins - 1; b > 0; --b) {
    above += counts[b];
    if (above > 0.001 * static_cast<double>(stats.rows)) return MagnitudeBinCenter(b);
  }
  return 0;
}

// The largest magnitude up to `ceiling`, if there is one.
double Peak(const SiteStats& stats, int64_t channel, float ceiling) {
  if (ceiling <= 0 || stats.AbsMax(channel) <= ceiling) return static_cast<double>(stats.AbsMax(channel));
  const uint32_t* counts = &stats.histogram[static_cast<size_t>(channel) * kMagnitudeBins];
  int bin = MagnitudeBin(ceiling);
  while (bin > 0 && counts[bin] == 0) --bin;
  return static_cast<double>(MagnitudeBinCenter(bin));
}

}  // namespace

std::vector<int32_t> ChooseKeptColumns(const SiteStats& stats, int count, bool static_scale,
                                       ScaleMethod method, float ceiling, int hi) {
  std::vector<double> cost(static_cast<size_t>(stats.k));
  if (!static_scale || method == ScaleMethod::kAbsMax) {
    for (int64_t c = 0; c < stats.k; ++c) {
      cost[static_cast<size_t>(c)] = static_scale ? Peak(stats, c, ceiling) : HighQuantile(stats, c);
    }
    return TopChannels(cost, count);
  }
  std::vector<int32_t> kept;
  for (int round = 0; round < 8; ++round) {
    const double scale = ChooseActivationScale(stats, kept, method, ceiling, hi).scale;
    for (int64_t c = 0; c < stats.k; ++c) {
      const absl::Span<const uint32_t> counts(&stats.histogram[static_cast<size_t>(c) * kMagnitudeBins],
                                              kMagnitudeBins);
      const double weight = stats.weight_sq.empty() ? 1.0 : stats.weight_sq[static_cast<size_t>(c)];
      cost[static_cast<size_t>(c)] = weight * HistogramError(counts, scale, hi, ceiling);
    }
    std::vector<int32_t> next = TopChannels(cost, count);
    if (next == kept) break;
    kept = std::move(next);
  }
  return kept;
}

std::vector<int32_t> RandomColumns(const SiteStats& stats, int count, uint64_t seed) {
  std::mt19937_64 rng(seed * 0x9e3779b97f4a7c15ull + static_cast<uint64_t>(stats.site));
  std::vector<double> cost(static_cast<size_t>(stats.k));
  for (double& c : cost) c = static_cast<double>(rng() >> 11);
  return TopChannels(cost, count);
}

}  // namespace spikefold
