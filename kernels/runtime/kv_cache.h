// The key/value cache of one sequence: prefix rows first (never evicted or quantized), then the text. In
// float32, or in f16 and pages of codes (kv_options.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "formats/base/dtype.h"
#include "formats/model_graph.h"
#include "kernels/runtime/kv_options.h"
#include "kernels/runtime/kv_pages.h"

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
  // positions 0..p-1. `options` must be valid (CheckKvOptions). With options.evict a position is a row's
  // place in the sequence, whether it is still kept or not: memory does not grow with the capacity.
  KvCache(const ModelConfig& config, int64_t capacity, const KvPrefix* prefix = nullptr,
          const KvOptions& options = {});
  int64_t length() const { return length_; }  // positions filled, prefix included
  int64_t capacity() const { return capacity_; }
  int64_t prefix_length() const { return prefix_length_; }
  const KvOptions& options() const { return options_; }
  void Reset();  // back to the prefix
  // length >= prefix_length(). Rows of a paged cache that were 16 bit when position `length` was reached and
  // are codes now come back as their codes' values; one that has evicted rows which that position would see
  // is Reset.
  void Truncate(int64_t length);
  void Advance(int64_t rows) { length_ += rows; }
  int64_t bytes() const;  // of this sequence's rows in memory, now

  int num_layers() const { return static_cast<int>(k_.size()); }  // of a float cache
  // [capacity, num_kv_heads * head_dim] float32 of one layer; of a float cache only.
  float* k(int layer) { return k_[static_cast<size_t>(layer)].data(); }
  float* v(int layer) { return v_[static_cast<size_t>(layer)].data(); }
  const float* k(int layer) const { return k_[static_cast<size_t>(layer)].data(); }
  const float* v(int layer) const { return v_[static_cast<size_t>(layer)].data(); }
  // A device backend's own copy of the rows. It makes it on first use and appends to it; k() and v() follow
  // on Ops::ReadCache. A copy of a cache has what k() and v() hold;
  // one in pages can be copied while it holds pinned rows alone.
  struct DeviceRows {
    virtual ~DeviceRows() = default;
    // False if rows have left that a row at `length` would see.
    virtual bool Truncate(int64_t) { return true; }
  };
  DeviceRows* device() const { return device_.rows.get(); }
  void set_device(std::unique_ptr<DeviceRows> rows) { device_.rows = std::move(rows); }
  // nullptr of a float cache.
  KvPages* pages() { return pages_ ? &*pages_ : nullptr; }
  const KvPages* pages() const { return pages_ ? &*pages_ : nullptr; }

 private:
  struct Device {
    Device() = default;
    Device(const Device&) {}
    Device& operator=(const Device&) {
      rows = nullptr;
      return *this;
    }
    Device(Device&&) = default;
    Device& operator=(Device&&) = default;
    std::unique_ptr<DeviceRows> rows;
  };
  void CopyPrefix(const ModelConfig& config, const KvPrefix& prefix);

  KvOptions options_;
  int64_t capacity_ = 0, length_ = 0, prefix_length_ = 0, row_width_ = 0;
  std::vector<std::vector<float>> k_, v_;
  std::optional<KvPages> pages_;
  Device device_;
};

}  // namespace spikefold
