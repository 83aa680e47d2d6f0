// The rows of a key/value cache in pinned f16 rows, pages of codes and recent f16 rows (kernels/kv_page.h).
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/thread_pool.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.h"
#include "kernels/runtime/kv_options.h"

namespace spikefold {

// What keys are turned by, for one rotary embedding.
class KvTurns {
 public:
  KvTurns(const RopeConfig& rope, int64_t head_dim);
  const float* offset() const { return offset_.data(); }  // kernels::KeyRotation::offset
  // The base of each of `num_pages` pages that begin at `first`, kPageTokens apart.
  const float* const* Bases(int64_t first, int64_t num_pages);
  // [rows, 2, head_dim/2] cos and sin of max(0, first + i).
  const float* Turns(int64_t first, int64_t rows);

 private:
  std::vector<float> Angle(int64_t position) const;  // [2, head_dim/2]

  std::vector<double> inv_freq_;
  std::vector<float> offset_, turns_;
  std::vector<std::vector<float>> bases_;
  std::vector<const float*> pointers_;
  int64_t turns_first_ = -1;
};

class KvPages {
 public:
  KvPages(const ModelConfig& config, const KvOptions& options, int64_t num_pinned);

  // A layer whose rows leave keeps this many more, so that a short step back loses nothing.
  static constexpr int64_t kStepBack = 256;

  int64_t num_pinned() const { return num_pinned_; }
  int num_layers() const { return static_cast<int>(layers_.size()); }
  const KvOptions& options() const { return options_; }
  const kernels::KvFormat& format() const { return format_; }
  int64_t Reach(int layer) const;  // rows behind the pinned ones that a query sees at most; 0: all
  const uint16_t* pinned_k(int layer) const { return layers_[static_cast<size_t>(layer)].pinned_k.data(); }
  const uint16_t* pinned_v(int layer) const { return layers_[static_cast<size_t>(layer)].pinned_v.data(); }
  // One pinned row, [num_kv_heads, head_dim] each, as attention sees it.
  void SetPinned(int layer, int64_t position, const float* k, const float* v);

  // Appends rows [first, first + rows) of a layer, codes the pages that one of these rows reads as codes, and
  // fills in what `attention` must know of the cache. Valid until the next call; then Settle(), once
  // attention has read them.
  void Append(int layer, int64_t first, int64_t rows, const float* k, const float* v, ThreadPool& pool,
              kernels::attention_f32_f32_ukv::Params& attention);
  void Settle(int layer, int64_t end);

  // Rows from `length` on are forgotten. Rows whose 16-bit form is gone come back as their codes' values.
  // False if rows have left that a row at `length` would see.
  bool Truncate(int64_t length);
  void Clear();

  int64_t bytes() const;
  // Keys that lay more than half a step outside their static scale.
  int64_t num_clamped() const { return num_clamped_; }

 private:
  struct Layer {
    std::vector<uint16_t> pinned_k, pinned_v;  // [num_pinned, width]
    std::vector<uint16_t> recent_k, recent_v;  // [recent_rows_, width] from page first_row_page on
    int64_t first_row_page = 0;                // pages before it are coded
    int64_t first_page = 0;                    // pages before it have left
    std::vector<std::vector<uint8_t>> pages;   // [first_row_page]; empty ones have left
  };
  int64_t PageBegin(int64_t page) const { return num_pinned_ + kernels::kPageTokens * page; }
  KvTurns& TurnsOf(int layer);
  kernels::KeyRotation RotationOf(int layer, int64_t page);
  kernels::ChannelScales ChannelsOf(int layer) const;
  void CodePages(int layer, int64_t end_page, const uint16_t* rows_k, const uint16_t* rows_v,
                 ThreadPool& pool);
  void DropPages(Layer& layer, int64_t end);
  void RestoreRows(int layer, int64_t length);
  bool IsSliding(int layer) const;

  ModelConfig config_;
  KvOptions options_;
  kernels::KvFormat format_;
  kernels::KvPageLayout layout_;
  int64_t num_pinned_, width_, recent_rows_;
  std::vector<Layer> layers_;
  KvTurns turns_, turns_local_;
  std::vector<std::vector<uint8_t>> free_pages_;
  // Of one call: rows that do not fit a layer's own, rows as floats, addresses of pages.
  std::vector<uint16_t> staged_k_, staged_v_;
  std::vector<float> wide_k_, wide_v_;
  std::vector<const uint8_t*> page_pointers_;
  bool staged_ = false;
  int64_t num_clamped_ = 0;
};

}  // namespace spikefold
