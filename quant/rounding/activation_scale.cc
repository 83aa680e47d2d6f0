#include "quant/rounding/activation_scale.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace spikefold {
namespace {

constexpr int kCandidates = 160;  // scales tried: log-spaced from absmax/127 down by a factor of 500

double BinError(double v, double s) {
  if (v < 0.5 * s) return v * v;
  if (v <= 127.5 * s) return s * s / 12.0;
  return (v - 127.0 * s) * (v - 127.0 * s);
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

double ErrorAt(const std::array<double, kMagnitudeBins>& counts, double scale) {
  double error = 0;
  for (int b = 0; b < kMagnitudeBins; ++b) {
    const double n = counts[static_cast<size_t>(b)];
    if (n > 0) error += n * BinError(MagnitudeBinCenter(b), scale);
  }
  return error;
}

double QuantileScale(const std::array<double, kMagnitudeBins>& counts, double quantile, double absmax) {
  double total = 0;
  for (const double n : counts) total += n;
  double above = 0;
  for (int b = kMagnitudeBins - 1; b >= 0; --b) {
    above += counts[static_cast<size_t>(b)];
    if (above > (1.0 - quantile) * total) return std::min<double>(absmax, MagnitudeBinCenter(b)) / 127.0;
  }
  return absmax / 127.0;
}

}  // namespace

double HistogramError(absl::Span<const uint32_t> histogram, double scale) {
  double error = 0;
  for (int b = 0; b < kMagnitudeBins; ++b) {
    const uint32_t n = histogram[static_cast<size_t>(b)];
    if (n > 0) error += n * BinError(MagnitudeBinCenter(b), scale);
  }
  return error;
}

ActivationScale ChooseActivationScale(const SiteStats& stats, absl::Span<const int32_t> kept,
                                      ScaleMethod method, float ceiling) {
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
  double scale = absmax / 127.0;
  if (method == ScaleMethod::kPercentile) scale = QuantileScale(counts, 0.9999, absmax);
  if (method == ScaleMethod::kMse) {
    double best_error = -1;
    for (int i = 0; i < kCandidates; ++i) {
      const double candidate = absmax / 127.0 * std::pow(500.0, -static_cast<double>(i) / (kCandidates - 1));
      const double error = ErrorAt(costs, candidate);
      if (best_error < 0 || error < best_error) {
        best_error = error;
        scale = candidate;
      }
    }
  }
  best.scale = static_cast<float>(scale);
  best.error = ErrorAt(costs, scale) / std::max<double>(1.0, static_cast<double>(stats.rows));
  double total = 0, clipped = 0;
  for (int b = 0; b < kMagnitudeBins; ++b) {
    total += counts[static_cast<size_t>(b)];
    if (std::min<double>(MagnitudeBinCenter(b), absmax) > 127.5 * scale)
      clipped += counts[static_cast<size_t>(b)];
  }
  best.clipped_share = total > 0 ? clipped / total : 0;
  return best;
}

}  // namespace spikefold
