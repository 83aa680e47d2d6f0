// What one model's forward passes gave, remembered: final hidden rows by prefix and window. Many quantized
// models are evaluated beside one float model on the same windows, which then run once.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "formats/tensor.h"

namespace spikefold {

// Of one model with one form of key/value cache: whoever owns the memory keeps them apart.
class HiddenMemory {
 public:
  // Keeps up to `max_windows` windows, those that come first: a text is run in the same order each time, so
  // that keeping the latest would find none of a text that does not fit. Each takes tokens * hidden floats.
  explicit HiddenMemory(int64_t max_windows) : max_windows_(max_windows) {}

  // Rows [tokens, d] of the window behind the prefix (empty: none); nullptr: not remembered. Valid until the
  // next Remember().
  const float* Find(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window);
  void Remember(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window,
                absl::Span<const float> rows);

  int64_t num_windows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t num_found() const { return num_found_; }  // how often Find() found one

 private:
  const int64_t max_windows_;
  int64_t num_found_ = 0;
  absl::flat_hash_map<std::string, Tensor> rows_;
};

}  // namespace spikefold
