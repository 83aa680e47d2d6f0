// Rotary embedding tables: cos and sin of position * inv_freq, computed in float64.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/model_config.h"

namespace spikefold {

// inv_freq[i] = theta^(-2i/head_dim), i < head_dim/2, after scaling. kLinear divides all by `factor`; kLlama3
// (Llama 3.1's rule) divides wavelengths above original/low_freq_factor by `factor`, keeps those below
// original/high_freq_factor and blends between them.
std::vector<double> RopeInverseFrequencies(const RopeConfig& config, int64_t head_dim);

class RopeTable {
 public:
  RopeTable(const RopeConfig& config, int64_t head_dim);
  void Reserve(int64_t positions);  // grows the table; moves it
  int64_t positions() const { return positions_; }
  // [positions, head_dim/2]
  const float* cos(int64_t position) const { return cos_.data() + position * half_; }
  const float* sin(int64_t position) const { return sin_.data() + position * half_; }

 private:
  int64_t half_ = 0, positions_ = 0;
  std::vector<double> inv_freq_;
  std::vector<float> cos_, sin_;
};

}  // namespace spikefold
