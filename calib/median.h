#pragma once

#include <algorithm>
#include <vector>

namespace spikefold {

// The middle value; of an even number the mean of the two in the middle; 0 of nothing.
template <typename T>
T Median(std::vector<T> values) {
  if (values.empty()) return T{0};
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*std::max_element(values.begin(), middle) + *middle) / 2;
}

}  // namespace spikefold
