#include "kernels/runtime/kv_cache.h"

#include <algorithm>

namespace spikefold {

KvCache::KvCache(const ModelConfig& config, int64_t capacity, const KvPrefix* prefix,
                 const KvOptions& options)
    : options_(options), capacity_(capacity), row_width_(config.num_kv_heads * config.head_dim) {
  const bool has_prefix = prefix != nullptr && !prefix->empty();
  if (has_prefix) prefix_length_ = std::min(prefix->size(), capacity);
  length_ = prefix_length_;
  if (options.is_float()) {
    const size_t elements = static_cast<size_t>(std::max<int64_t>(capacity, 0) * row_width_);
    k_.assign(static_cast<size_t>(config.num_layers), std::vector<float>(elements));
    v_ = k_;
  } else {
    pages_.emplace(config, options, std::max(prefix_length_, options.sinks));
  }
  if (has_prefix) CopyPrefix(config, *prefix);
}

void KvCache::CopyPrefix(const ModelConfig& config, const KvPrefix& prefix) {
  const int64_t p = prefix.size(), head_dim = config.head_dim;
  std::vector<float> k(static_cast<size_t>(row_width_)), v = k;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    const size_t l = static_cast<size_t>(layer);
    for (int64_t t = 0; t < prefix_length_; ++t) {
      for (int64_t h = 0; h < config.num_kv_heads; ++h) {
        for (int64_t i = 0; i < head_dim; ++i) {
          const size_t from = static_cast<size_t>((h * p + t) * head_dim + i);
          const size_t to = static_cast<size_t>(h * head_dim + i);
          k[to] = Bf16ToFloat(prefix.k[l][from]);
          v[to] = Bf16ToFloat(prefix.v[l][from]);
        }
      }
      if (pages_) {
        pages_->SetPinned(layer, t, k.data(), v.data());
      } else {
        std::copy(k.begin(), k.end(), k_[l].begin() + t * row_width_);
        std::copy(v.begin(), v.end(), v_[l].begin() + t * row_width_);
      }
    }
  }
}

void KvCache::Reset() {
  length_ = prefix_length_;
  if (pages_) pages_->Clear();
}

void KvCache::Truncate(int64_t length) {
  const int64_t wanted = std::clamp(length, prefix_length_, length_);
  const bool kept = device_.rows == nullptr || device_.rows->Truncate(wanted);
  if (!kept || (pages_ && !pages_->Truncate(wanted))) {
    Reset();
    return;
  }
  length_ = wanted;
}

int64_t KvCache::bytes() const {
  if (pages_) return pages_->bytes();
  return static_cast<int64_t>(2 * k_.size() * sizeof(float)) * std::max<int64_t>(capacity_, 0) * row_width_;
}

}  // namespace spikefold
