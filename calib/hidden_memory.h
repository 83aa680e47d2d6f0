// What one model's evaluation gave, remembered by prefix and window: final hidden rows, logits, scores. Many
// quantized models are evaluated beside one float model on the same windows, which then run once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "calib/score_rows.h"
#include "formats/tensor.h"

namespace spikefold {

// Of one model with one form of key/value cache: whoever owns the memory keeps them apart.
class HiddenMemory {
 public:
  // Keeps up to `max_windows` windows, those that come first: a text is run in the same order each time, so
  // that keeping the latest would find none of a text that does not fit. Each takes tokens * hidden floats.
  // Logits up to `max_logit_bytes`: the head is a fifth of a small model.
  explicit HiddenMemory(int64_t max_windows, uint64_t max_logit_bytes = 0)
      : max_windows_(max_windows), max_logit_bytes_(max_logit_bytes) {}

  // Rows [tokens, d] of the window behind the prefix (empty: none); nullptr: not remembered. Valid until the
  // next Remember().
  const float* Find(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window);
  void Remember(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window,
                absl::Span<const float> rows);

  // Logits [rows, vocab] of the window's positions from `position` on.
  const float* FindLogits(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window,
                          int64_t position);
  void RememberLogits(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window, int64_t position,
                      absl::Span<const float> logits);

  // Scores of the model alone, of the window's tokens from `score_from` on; no prefix.
  const std::vector<RowScore>* FindScores(absl::Span<const int32_t> window, int64_t score_from);
  void RememberScores(absl::Span<const int32_t> window, int64_t score_from,
                      const std::vector<RowScore>& scores);

  int64_t num_windows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t num_found() const { return num_found_; }  // how often Find() or FindScores() found one
  int64_t num_logits_found() const { return num_logits_found_; }

 private:
  const int64_t max_windows_;
  const uint64_t max_logit_bytes_;
  uint64_t logit_bytes_ = 0;
  int64_t num_found_ = 0, num_logits_found_ = 0;
  absl::flat_hash_map<std::string, Tensor> rows_, logits_;
  absl::flat_hash_map<std::string, std::vector<RowScore>> scores_;
};

}  // namespace spikefold
