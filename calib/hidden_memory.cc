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
  Tensor kept(DType::kF32, {static_cast<int64_t>(rows.size())});
  std::copy(rows.begin(), rows.end(), kept.as<float>().begin());
  rows_.insert_or_assign(KeyOf(prefix, window), std::move(kept));
}

}  // namespace spikefold
