#include "kernels/runtime/rope.h"

#include <cmath>

namespace spikefold {

std::vector<double> RopeInverseFrequencies(const RopeConfig& config, int64_t head_dim) {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  std::vector<double> inv_freq(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    double f = std::pow(config.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (config.scaling == RopeScaling::kLinear) f /= config.factor;
    if (config.scaling == RopeScaling::kLlama3) {
      // Turns of this pair over the original context decide: few turns are stretched, many stay.
      const double turns = static_cast<double>(config.original_max_positions) * f / kTwoPi;
      if (turns < config.low_freq_factor) {
        f /= config.factor;
      } else if (turns <= config.high_freq_factor) {
        const double keep =
            (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor);
        f = (1.0 - keep) * f / config.factor + keep * f;
      }
    }
    inv_freq[i] = f;
  }
  return inv_freq;
}

RopeTable::RopeTable(const RopeConfig& config, int64_t head_dim)
    : half_(head_dim / 2), inv_freq_(RopeInverseFrequencies(config, head_dim)) {}

void RopeTable::Reserve(int64_t positions) {
  if (positions <= positions_) return;
  cos_.resize(static_cast<size_t>(positions * half_));
  sin_.resize(static_cast<size_t>(positions * half_));
  for (int64_t p = positions_; p < positions; ++p) {
    for (int64_t i = 0; i < half_; ++i) {
      const double angle = static_cast<double>(p) * inv_freq_[static_cast<size_t>(i)];
      cos_[static_cast<size_t>(p * half_ + i)] = static_cast<float>(std::cos(angle));
      sin_[static_cast<size_t>(p * half_ + i)] = static_cast<float>(std::sin(angle));
    }
  }
  positions_ = positions;
}

}  // namespace spikefold
