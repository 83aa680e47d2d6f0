// The key/value cache of one sequence: prefix rows first (never evicted or quantized), then the text.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/dtype.h"
#include "formats/model_graph.h"

namespace spikefold {

// Keys (after RoPE at positions 0..p-1) and values of p leading tokens, 16 bit, for every layer. Shared by
// all sequences.
struct KvPrefix {
  std::vector<int32_t> tokens;  // [p]
  std::vector<std::vector<uint16_t>> k,
      v;  // [num_layers][num_kv_heads * p * head_dim], bf16, laid out [num_kv_heads, p, head_dim]
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  bool empty() const { return tokens.empty(); }
};

class KvCache {
 public:
  // Room for `capacity` positions, prefix included. The prefix (may be null) is copied in and counts as
  // positions 0..p-1.
  KvCache(const ModelConfig& config, int64_t capacity, const KvPrefix* prefix = nullptr);
  int64_t length() const { return length_; }  // positions filled, prefix included
  int64_t capacity() const { return capacity_; }
  int64_t prefix_length() const { return prefix_length_; }
  void Reset();                   // back to the prefix
  void Truncate(int64_t length);  // length >= prefix_length()
  // [capacity, num_kv_heads * head_dim] float32 of one layer.
  float* k(int layer) { return k_[static_cast<size_t>(layer)].data(); }
  float* v(int layer) { return v_[static_cast<size_t>(layer)].data(); }
  const float* k(int layer) const { return k_[static_cast<size_t>(layer)].data(); }
  const float* v(int layer) const { return v_[static_cast<size_t>(layer)].data(); }
  void Advance(int64_t rows) { length_ += rows; }

 private:
  int64_t capacity_ = 0, length_ = 0, prefix_length_ = 0, row_width_ = 0;
  std::vector<std::vector<float>> k_, v_;
};

}  // namespace spikefold
