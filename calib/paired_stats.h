// Means with their standard errors, and percentiles.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "calib/evaluate.h"

namespace spikefold {

struct MeanAndError {
  double mean = 0;
  double se = 0;  // sd / sqrt(n), sd with n - 1; 0 for fewer than two values
};
MeanAndError MeanWithError(absl::Span<const double> values);

// q in [0, 1] of ascending values, by linear interpolation between the two nearest ranks (index q * (n - 1)).
double Quantile(absl::Span<const double> ascending, double q);
Percentiles MakePercentiles(std::vector<double> values);  // of the finite ones; zeros if there are none

}  // namespace spikefold
