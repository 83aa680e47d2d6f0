#include "quant/rounding/activation_scale.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace spikefold {
namespace {

constexpr int kCandidates =
    160;  // scales tried: log-spaced from absmax over the largest code down by a factor of 500

double BinError(double v, double s, int hi) {
  if (v < 0.5 * s) return v * v;
  if (v <= (hi + 0.5) * s) return s * s / 12.0;
  return (v - hi * s) * (v - hi * s);
}

// Weighted counts a bin, kept channels left out: the error of all candidates then costs one pass over the
// bins.
std::array<double, kMagnitudeBins> WeightedHistogram(const SiteStats& stats, absl::Span<const int32_t> kept,
                                                     bool weighted) {
  std::array<double, kMagnitudeBins> total{};
  size_t next_kept = 0;
  for (int64_t c = 0; c < stats.k; ++c) {
    if (next_kept < kept.size() && kept[next_kept] == c) {
      ++next_kept;
      continue;
    }
    const double weight = weighted ? stats.weight_sq[static_cast<size_t>(c)] : 1.0;
    const uint32_t* counts = &stats.histogram[static_cast<size_t>(c) * kMagnitudeBins];
    for (int b = 0; b < kMagnitudeBins; ++b) total[static_cast<size_t>(b)] += weight * counts[b];
  }
  return total;
}

double MaxOutside(const SiteStats& stats, absl::Span<const int32_t> kept) {
  double max = 0;
  size_t next_kept = 0;
  for (int64_t c = 0; c < stats.k; ++c) {
    if (next_kept < kept.size() && kept[next_kept] == c) {
      ++next_kept;
      continue;
    }
    max = std::max(max, static_cast<double>(stats.AbsMax(c)));
  }
  return max;
}

double ErrorAt(const std::array<double, kMagnitudeBins>& counts, double scale, int hi) {
  double error = 0;
  for (int b = 0; b < kMagnitudeBins; ++b) {
    const double n = counts[static_cast<size_t>(b)];
    if (n > 0) error += n * BinError(MagnitudeBinCenter(b), scale, hi);
  }
  return error;
}

// The magnitude that all but 1 - quantile stay below.
double Quantile(const std::array<double, kMagnitudeBins>& counts, double quantile, double absmax) {
  double total = 0;
  for (const double n : counts) total += n;
  double above = 0;
  for (int b = kMagnitudeBins - 1; b >= 0; --b) {
    above += counts[static_cast<size_t>(b)];
    if (above > (1.0 - quantile) * total) return std::min<double>(absmax, MagnitudeBinCenter(b));
  }
  return absmax;
}

}  // namespace

double HistogramError(absl::Span<const uint32_t> histogram, double scale, int hi, float ceiling) {
  const int end = ceiling > 0 ? MagnitudeBin(ceiling) + 1 : kMagnitudeBins;
  double error = 0;
  for (int b = 0; b < end; ++b) {
    const uint32_t n = histogram[static_cast<size_t>(b)];
    if (n > 0) error += n * BinError(MagnitudeBinCenter(b), scale, hi);
  }
  return error;
}

ActivationScale ChooseActivationScale(const SiteStats& stats, absl::Span<const int32_t> kept,
                                      ScaleMethod method, float ceiling, int hi) {
  ActivationScale best;
  double absmax = MaxOutside(stats, kept);
  if (absmax <= 0) return best;  // the site never saw anything but zeros
  const bool weighted = stats.weight_sq.size() == static_cast<size_t>(stats.k);
  auto costs = WeightedHistogram(stats, kept, weighted);
  auto counts = WeightedHistogram(stats, kept, false);
  if (ceiling > 0) {
    absmax = std::min(absmax, static_cast<double>(ceiling));
    for (int b = MagnitudeBin(ceiling) + 1; b < kMagnitudeBins; ++b) {
      costs[static_cast<size_t>(b)] = counts[static_cast<size_t>(b)] = 0;
    }
  }
  double scale = absmax / hi;
  if (method == ScaleMethod::kPercentile) scale = Quantile(counts, 0.9999, absmax) / hi;
  if (method == ScaleMethod::kMse) {
    double best_error = -1;
    for (int i = 0; i < kCandidates; ++i) {
      const double candidate = absmax / hi * std::pow(500.0, -static_cast<double>(i) / (kCandidates - 1));
      const double error = ErrorAt(costs, candidate, hi);
      if (best_error < 0 || error < best_error) {
        best_error = error;
        scale = candidate;
      }
    }
  }
  best.scale = static_cast<float>(scale);
  best.error = ErrorAt(costs, scale, hi) / std::max<double>(1.0, static_cast<double>(stats.rows));
  double total = 0, clipped = 0;
  for (int b = 0; b < kMagnitudeBins; ++b) {
    total += counts[static_cast<size_t>(b)];
    if (std::min<double>(MagnitudeBinCenter(b), absmax) > (hi + 0.5) * scale)
      clipped += counts[static_cast<size_t>(b)];
  }
  best.clipped_share = total > 0 ? clipped / total : 0;
  return best;
}

void AddZeroPoint(const SiteStats& stats, absl::Span<const int32_t> kept, int lo, int hi,
                  ActivationScale& chosen) {
  double low = 0, high = 0;
  for (int64_t c = 0; c < stats.k; ++c) {
    if (std::binary_search(kept.begin(), kept.end(), static_cast<int32_t>(c))) continue;
    low = std::min(low, static_cast<double>(stats.min[static_cast<size_t>(c)]));
    high = std::max(high, static_cast<double>(stats.max[static_cast<size_t>(c)]));
  }
  const double clip = static_cast<double>(chosen.scale) * hi;
  low = std::max(low, -clip);
  high = std::min(high, clip);
  if (high <= low) return;
  const double scale = (high - low) / (hi - lo);
  chosen.zero = static_cast<int>(std::clamp(std::nearbyint(lo - low / scale), 1.0 * lo, 1.0 * hi));
  chosen.scale = static_cast<float>(scale);
}

}  // namespace spikefold
