// What zero points of activations multiply, and finer groups of a weight: for the backends' packing.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/group_weights.h"

namespace spikefold {

// Every element `times` times.
template <typename T>
std::vector<T> Repeat(absl::Span<const T> values, int64_t times) {
  std::vector<T> out;
  out.reserve(values.size() * static_cast<size_t>(times));
  for (const T value : values) out.insert(out.end(), static_cast<size_t>(times), value);
  return out;
}

// [n] sums of a row's codes. codes: [n, k]
std::vector<int32_t> CodeSums(absl::Span<const int8_t> codes, int64_t n, int64_t k);
// [n] sum of scale * (code - zero), added up in float64.
std::vector<float> RowSums(const kernels::GroupWeights& w);

}  // namespace spikefold
