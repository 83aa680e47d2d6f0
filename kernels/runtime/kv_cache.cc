#include "kernels/runtime/kv_cache.h"

#include <algorithm>

namespace spikefold {

KvCache::KvCache(const ModelConfig& config, int64_t capacity, const KvPrefix* prefix)
    : capacity_(capacity), row_width_(config.num_kv_heads * config.head_dim) {
  const size_t elements = static_cast<size_t>(std::max<int64_t>(capacity, 0) * row_width_);
  k_.assign(static_cast<size_t>(config.num_layers), std::vector<float>(elements));
  v_ = k_;
  if (prefix == nullptr || prefix->empty()) return;
  prefix_length_ = std::min(prefix->size(), capacity);
  length_ = prefix_length_;
  const int64_t p = prefix->size(), head_dim = config.head_dim;
  for (size_t layer = 0; layer < k_.size(); ++layer) {
    for (int64_t h = 0; h < config.num_kv_heads; ++h) {
      for (int64_t t = 0; t < prefix_length_; ++t) {
        for (int64_t i = 0; i < head_dim; ++i) {
          const size_t from = static_cast<size_t>((h * p + t) * head_dim + i);
          const size_t to = static_cast<size_t>(t * row_width_ + h * head_dim + i);
          k_[layer][to] = Bf16ToFloat(prefix->k[layer][from]);
          v_[layer][to] = Bf16ToFloat(prefix->v[layer][from]);
        }
      }
    }
  }
}

void KvCache::Reset() { length_ = prefix_length_; }

void KvCache::Truncate(int64_t length) { length_ = std::clamp(length, prefix_length_, length_); }

}  // namespace spikefold
