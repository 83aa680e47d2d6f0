#include "calib/paired_stats.h"

#include <algorithm>
#include <cmath>

namespace spikefold {

MeanAndError MeanWithError(absl::Span<const double> values) {
  MeanAndError out;
  const double n = static_cast<double>(values.size());
  if (values.empty()) return out;
  for (const double v : values) out.mean += v;
  out.mean /= n;
  if (values.size() < 2) return out;
  double squares = 0;
  for (const double v : values) squares += (v - out.mean) * (v - out.mean);
  out.se = std::sqrt(squares / (n - 1) / n);
  return out;
}

double Quantile(absl::Span<const double> ascending, double q) {
  if (ascending.empty()) return 0;
  const double rank = q * static_cast<double>(ascending.size() - 1);
  const size_t low = static_cast<size_t>(rank), high = std::min(low + 1, ascending.size() - 1);
  return ascending[low] + (rank - static_cast<double>(low)) * (ascending[high] - ascending[low]);
}

Percentiles MakePercentiles(std::vector<double> values) {
  values.erase(std::remove_if(values.begin(), values.end(), [](double v) { return !std::isfinite(v); }),
               values.end());
  std::sort(values.begin(), values.end());
  Percentiles p;
  p.max = Quantile(values, 1);
  p.p999 = Quantile(values, 0.999);
  p.p99 = Quantile(values, 0.99);
  p.p95 = Quantile(values, 0.95);
  p.p90 = Quantile(values, 0.90);
  p.p50 = Quantile(values, 0.50);
  p.p10 = Quantile(values, 0.10);
  p.p5 = Quantile(values, 0.05);
  p.p1 = Quantile(values, 0.01);
  p.p01 = Quantile(values, 0.001);
  p.min = Quantile(values, 0);
  return p;
}

}  // namespace spikefold
