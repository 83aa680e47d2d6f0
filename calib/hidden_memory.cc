#include "calib/hidden_memory.h"

#include <algorithm>
#include <utility>

namespace spikefold {
namespace {

// The tokens themselves, with the number of those of the prefix before them.
std::string KeyOf(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window) {
  const auto bytes = [](absl::Span<const int32_t> tokens) {
    return absl::string_view(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(int32_t));
  };
  std::string key = std::to_string(prefix.size()) + ":";
  key.append(bytes(prefix).data(), bytes(prefix).size());
  key.append(bytes(window).data(), bytes(window).size());
  return key;
}

std::string KeyAt(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window, int64_t position) {
  return std::to_string(position) + ":" + KeyOf(prefix, window);
}

Tensor Keep(absl::Span<const float> values) {
  Tensor kept(DType::kF32, {static_cast<int64_t>(values.size())});
  std::copy(values.begin(), values.end(), kept.as<float>().begin());
  return kept;
}

}  // namespace

const float* HiddenMemory::Find(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window) {
  const auto it = rows_.find(KeyOf(prefix, window));
  if (it == rows_.end()) return nullptr;
  ++num_found_;
  return it->second.as<float>().data();
}

void HiddenMemory::Remember(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window,
                            absl::Span<const float> rows) {
  if (num_windows() >= max_windows_) return;
  rows_.insert_or_assign(KeyOf(prefix, window), Keep(rows));
}

const float* HiddenMemory::FindLogits(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window,
                                      int64_t position) {
  const auto it = logits_.find(KeyAt(prefix, window, position));
  if (it == logits_.end()) return nullptr;
  ++num_logits_found_;
  return it->second.as<float>().data();
}

void HiddenMemory::RememberLogits(absl::Span<const int32_t> prefix, absl::Span<const int32_t> window,
                                  int64_t position, absl::Span<const float> logits) {
  const uint64_t bytes = logits.size() * sizeof(float);
  if (logit_bytes_ + bytes > max_logit_bytes_) return;
  if (logits_.emplace(KeyAt(prefix, window, position), Keep(logits)).second) logit_bytes_ += bytes;
}

const std::vector<RowScore>* HiddenMemory::FindScores(absl::Span<const int32_t> window, int64_t score_from) {
  const auto it = scores_.find(KeyAt({}, window, score_from));
  if (it == scores_.end()) return nullptr;
  ++num_found_;
  return &it->second;
}

void HiddenMemory::RememberScores(absl::Span<const int32_t> window, int64_t score_from,
                                  const std::vector<RowScore>& scores) {
  scores_.insert_or_assign(KeyAt({}, window, score_from), scores);
}

}  // namespace spikefold
