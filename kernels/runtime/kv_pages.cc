#include "kernels/runtime/kv_pages.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "kernels/convert_f16_f32/convert_f16_f32.h"
#include "kernels/runtime/rope.h"

namespace spikefold {
namespace {

namespace f16 = kernels::convert_f16_f32;
using kernels::kPageTokens;

}  // namespace

KvTurns::KvTurns(const RopeConfig& rope, int64_t head_dim)
    : inv_freq_(RopeInverseFrequencies(rope, head_dim)),
      offset_(2 * inv_freq_.size() * static_cast<size_t>(kPageTokens)) {
  const size_t half = inv_freq_.size(), page = static_cast<size_t>(kPageTokens);
  for (size_t t = 0; t < page; ++t) {
    const std::vector<float> angle = Angle(static_cast<int64_t>(t));
    for (size_t i = 0; i < 2 * half; ++i) offset_[i * page + t] = angle[i];
  }
}

std::vector<float> KvTurns::Angle(int64_t position) const {
  const size_t half = inv_freq_.size();
  std::vector<float> out(2 * half);
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * inv_freq_[i];
    out[i] = static_cast<float>(std::cos(angle));
    out[half + i] = static_cast<float>(std::sin(angle));
  }
  return out;
}

const float* const* KvTurns::Bases(int64_t first, int64_t num_pages) {
  while (static_cast<int64_t>(bases_.size()) < num_pages) {
    bases_.push_back(Angle(first + kPageTokens * static_cast<int64_t>(bases_.size())));
  }
  // Of a copied cache the pointers are still those of the original.
  if (pointers_.size() != bases_.size() || (!pointers_.empty() && pointers_[0] != bases_[0].data())) {
    pointers_.clear();
    for (const std::vector<float>& base : bases_) pointers_.push_back(base.data());
  }
  return pointers_.data();
}

const float* KvTurns::Turns(int64_t first, int64_t rows) {
  const size_t want = static_cast<size_t>(rows) * 2 * inv_freq_.size();
  if (turns_first_ == first && turns_.size() == want) return turns_.data();  // another layer of the same call
  turns_.clear();
  for (int64_t i = 0; i < rows; ++i) {
    const std::vector<float> angle = Angle(std::max<int64_t>(0, first + i));
    turns_.insert(turns_.end(), angle.begin(), angle.end());
  }
  turns_first_ = first;
  return turns_.data();
}

KvPages::KvPages(const ModelConfig& config, const KvOptions& options, int64_t num_pinned)
    : config_(config),
      options_(options),
      format_{config.num_kv_heads, config.head_dim, options.k_bits, options.v_bits, options.k_scale},
      layout_(format_),
      num_pinned_(num_pinned),
      width_(config.num_kv_heads * config.head_dim),
      // What stays between calls is below recent + 64; the rest is room for decoding without a move.
      recent_rows_(options.recent + 2 * kPageTokens),
      layers_(static_cast<size_t>(config.num_layers)),
      turns_(config.rope, config.head_dim),
      turns_local_(config.rope_local, config.head_dim) {
  for (Layer& layer : layers_) {
    for (auto* rows : {&layer.pinned_k, &layer.pinned_v})
      rows->resize(static_cast<size_t>(num_pinned_ * width_));
    for (auto* rows : {&layer.recent_k, &layer.recent_v})
      rows->resize(static_cast<size_t>(recent_rows_ * width_));
  }
}

bool KvPages::IsSliding(int layer) const {
  const auto& slides = config_.sliding_layers;
  return !slides.empty() && slides[static_cast<size_t>(layer)];
}

int64_t KvPages::Reach(int layer) const {
  const int64_t window = IsSliding(layer) ? config_.sliding_window : 0;
  if (window == 0 || options_.evict == 0) return std::max(window, options_.evict);
  return std::min(window, options_.evict);
}

KvTurns& KvPages::TurnsOf(int layer) { return IsSliding(layer) ? turns_local_ : turns_; }

kernels::KeyRotation KvPages::RotationOf(int layer, int64_t page) {
  if (!options_.k_before_rope) return {};
  KvTurns& turns = TurnsOf(layer);
  return {turns.Bases(num_pinned_, page + 1)[page], turns.offset()};
}

kernels::ChannelScales KvPages::ChannelsOf(int layer) const {
  if (options_.channels == nullptr) return {};
  const size_t l = static_cast<size_t>(layer);
  return {options_.channels->scale[l].data(), options_.channels->min[l].data()};
}

void KvPages::SetPinned(int layer, int64_t position, const float* k, const float* v) {
  Layer& l = layers_[static_cast<size_t>(layer)];
  f16::Narrow(k, width_, l.pinned_k.data() + position * width_);
  f16::Narrow(v, width_, l.pinned_v.data() + position * width_);
}

void KvPages::Append(int layer, int64_t first, int64_t rows, const float* k, const float* v, ThreadPool& pool,
                     kernels::attention_f32_f32_ukv::Params& a) {
  Layer& l = layers_[static_cast<size_t>(layer)];
  const int64_t end = first + rows, num_new_pinned = std::clamp<int64_t>(num_pinned_ - first, 0, rows);
  for (int64_t i = 0; i < num_new_pinned; ++i) SetPinned(layer, first + i, k + i * width_, v + i * width_);

  // Recent rows: in place while they fit.
  const int64_t base = PageBegin(l.first_row_page), kept = std::max<int64_t>(first - base, 0);
  const int64_t needed = std::max<int64_t>(end - base, 0), taken = rows - num_new_pinned;
  staged_ = needed > recent_rows_;
  uint16_t *to_k = l.recent_k.data(), *to_v = l.recent_v.data();
  if (staged_) {
    const size_t size = static_cast<size_t>(needed * width_);
    staged_k_.resize(std::max(staged_k_.size(), size));
    staged_v_.resize(std::max(staged_v_.size(), size));
    std::copy_n(to_k, kept * width_, staged_k_.data());
    std::copy_n(to_v, kept * width_, staged_v_.data());
    to_k = staged_k_.data();
    to_v = staged_v_.data();
  }
  pool.ParallelFor(taken, 32, [&](int64_t begin, int64_t stop) {
    const int64_t from = (num_new_pinned + begin) * width_, to = (kept + begin) * width_;
    f16::Narrow(k + from, (stop - begin) * width_, to_k + to);
    f16::Narrow(v + from, (stop - begin) * width_, to_v + to);
  });

  // Pages that the last of these rows reads as codes.
  const int64_t coded = std::max<int64_t>(0, end - options_.recent - num_pinned_) / kPageTokens;
  a.first_row_page = l.first_row_page;
  if (coded > l.first_row_page) CodePages(layer, coded, to_k, to_v, pool);

  page_pointers_.clear();
  for (const std::vector<uint8_t>& page : l.pages) page_pointers_.push_back(page.data());
  a.format = format_;
  a.num_pinned = num_pinned_;
  a.pinned_k = l.pinned_k.data();
  a.pinned_v = l.pinned_v.data();
  a.pages = page_pointers_.data();
  a.rows_k = to_k;
  a.rows_v = to_v;
  a.recent = options_.recent;
  a.channels = ChannelsOf(layer);
  a.evict = options_.evict;
  KvTurns& turns = TurnsOf(layer);
  if (options_.k_before_rope) {
    a.page_base = turns.Bases(num_pinned_, static_cast<int64_t>(l.pages.size()));
    a.page_offset = turns.offset();
  }
  if (options_.evict > 0) a.pinned_turn = turns.Turns(first + 1 - num_pinned_ - options_.evict, rows);
}

void KvPages::CodePages(int layer, int64_t end_page, const uint16_t* rows_k, const uint16_t* rows_v,
                        ThreadPool& pool) {
  Layer& l = layers_[static_cast<size_t>(layer)];
  const int64_t begin_page = l.first_row_page, count = end_page - begin_page,
                page_values = kPageTokens * width_;
  wide_k_.resize(static_cast<size_t>(count * page_values));
  wide_v_.resize(wide_k_.size());
  l.pages.resize(static_cast<size_t>(end_page));
  for (int64_t n = begin_page; n < end_page; ++n) {
    std::vector<uint8_t>& page = l.pages[static_cast<size_t>(n)];
    if (!free_pages_.empty()) {
      page = std::move(free_pages_.back());
      free_pages_.pop_back();
    } else {
      page.resize(static_cast<size_t>(layout_.page_bytes));
    }
    (void)RotationOf(layer, n);  // made before threads read it
  }
  std::atomic<int64_t> clamped{0};
  pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
    f16::Widen(rows_k + begin * page_values, (end - begin) * page_values,
               wide_k_.data() + begin * page_values);
    f16::Widen(rows_v + begin * page_values, (end - begin) * page_values,
               wide_v_.data() + begin * page_values);
  });
  const float* const* bases = options_.k_before_rope ? TurnsOf(layer).Bases(num_pinned_, end_page) : nullptr;
  pool.ParallelFor(count * config_.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i / config_.num_kv_heads, n = begin_page + at;
      const kernels::KeyRotation rotation =
          bases != nullptr ? kernels::KeyRotation{bases[n], TurnsOf(layer).offset()} : kernels::KeyRotation{};
      clamped +=
          kernels::QuantizePageHead(format_, i % config_.num_kv_heads, wide_k_.data() + at * page_values,
                                    wide_v_.data() + at * page_values, rotation, ChannelsOf(layer),
                                    l.pages[static_cast<size_t>(n)].data());
    }
  });
  num_clamped_ += clamped;
}

void KvPages::Settle(int layer, int64_t end) {
  Layer& l = layers_[static_cast<size_t>(layer)];
  const int64_t before = PageBegin(l.first_row_page);
  l.first_row_page = std::max<int64_t>(l.first_row_page, static_cast<int64_t>(l.pages.size()));
  const int64_t base = PageBegin(l.first_row_page), count = std::max<int64_t>(end - base, 0) * width_;
  const int64_t skip = (base - before) * width_;
  if (staged_) {
    std::copy_n(staged_k_.data() + skip, count, l.recent_k.data());
    std::copy_n(staged_v_.data() + skip, count, l.recent_v.data());
  } else if (skip > 0) {
    std::copy_n(l.recent_k.data() + skip, count, l.recent_k.data());
    std::copy_n(l.recent_v.data() + skip, count, l.recent_v.data());
  }
  const int64_t reach = Reach(layer);
  if (reach > 0) DropPages(l, end + 1 - reach - kStepBack);
}

// Pages that end at `end` or before.
void KvPages::DropPages(Layer& l, int64_t end) {
  for (; l.first_page < l.first_row_page && PageBegin(l.first_page + 1) <= end; ++l.first_page) {
    std::vector<uint8_t>& page = l.pages[static_cast<size_t>(l.first_page)];
    free_pages_.push_back(std::move(page));
    page = {};
  }
}

bool KvPages::Truncate(int64_t length) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const int64_t reach = Reach(static_cast<int>(i));
    const int64_t seen = reach > 0 ? std::max(num_pinned_, length + 1 - reach) : num_pinned_;
    if (PageBegin(layers_[i].first_page) > seen) return false;
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (length < PageBegin(layers_[i].first_row_page)) RestoreRows(static_cast<int>(i), length);
  }
  return true;
}

// The page that `length` lies in becomes recent rows again, the pages behind it are given back.
void KvPages::RestoreRows(int layer, int64_t length) {
  Layer& l = layers_[static_cast<size_t>(layer)];
  const int64_t page = std::max<int64_t>(0, length - num_pinned_) / kPageTokens;
  std::vector<float> k(static_cast<size_t>(width_)), v = k;
  for (int64_t row = 0; row < length - PageBegin(page); ++row) {
    for (int64_t h = 0; h < config_.num_kv_heads; ++h) {
      kernels::ReadPageRow(format_, h, row, l.pages[static_cast<size_t>(page)].data(),
                           RotationOf(layer, page), ChannelsOf(layer), k.data() + h * config_.head_dim,
                           v.data() + h * config_.head_dim);
    }
    f16::Narrow(k.data(), width_, l.recent_k.data() + row * width_);
    f16::Narrow(v.data(), width_, l.recent_v.data() + row * width_);
  }
  while (static_cast<int64_t>(l.pages.size()) > page) {
    if (!l.pages.back().empty()) free_pages_.push_back(std::move(l.pages.back()));
    l.pages.pop_back();
  }
  l.first_row_page = page;
}

void KvPages::Clear() {
  for (Layer& l : layers_) {
    for (std::vector<uint8_t>& page : l.pages) {
      if (!page.empty()) free_pages_.push_back(std::move(page));
    }
    l.pages.clear();
    l.first_row_page = l.first_page = 0;
  }
}

int64_t KvPages::bytes() const {
  int64_t pages = static_cast<int64_t>(free_pages_.size());
  int64_t values = static_cast<int64_t>(staged_k_.capacity() + staged_v_.capacity());
  for (const Layer& l : layers_) {
    pages += static_cast<int64_t>(l.pages.size()) - l.first_page;
    values +=
        static_cast<int64_t>(l.pinned_k.size() + l.pinned_v.size() + l.recent_k.size() + l.recent_v.size());
  }
  return pages * layout_.page_bytes + values * static_cast<int64_t>(sizeof(uint16_t));
}

}  // namespace spikefold
