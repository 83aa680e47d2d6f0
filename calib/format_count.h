// "32,768": counts in texts for people.
#pragma once

#include <cstdint>
#include <string>

namespace spikefold {

inline std::string FormatCount(int64_t count) {
  std::string digits = std::to_string(count);
  const int first = digits[0] == '-' ? 1 : 0;
  for (int i = static_cast<int>(digits.size()) - 3; i > first; i -= 3)
    digits.insert(static_cast<size_t>(i), 1, ',');
  return digits;
}

}  // namespace spikefold
