#include "calib/observers/key_observer.h"

#include <algorithm>
#include <limits>

namespace spikefold {
namespace {

// The value below which a share `p` of the sorted values lies, linear between neighbours.
float Quantile(const std::vector<float>& sorted, double p) {
  const double at = p * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(at), above = std::min(below + 1, sorted.size() - 1);
  const float part = static_cast<float>(at - static_cast<double>(below));
  return sorted[below] + part * (sorted[above] - sorted[below]);
}

}  // namespace

KeyObserver::KeyObserver(const ModelGraph& graph, int64_t first_position, ThreadPool& pool, int64_t max_rows)
    : pool_(pool),
      config_(graph.config),
      observes_(graph.qk_rotation < 0),
      first_position_(first_position),
      max_rows_(max_rows),
      width_(config_.num_kv_heads * config_.head_dim),
      rope_(config_.rope, config_.head_dim),
      rope_local_(config_.rope_local, config_.head_dim),
      layers_(static_cast<size_t>(config_.num_layers)) {}

void KeyObserver::OnRows(const TapRows& rows) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Layer& layer = layers_[static_cast<size_t>(rows.layer)];
  if (layer.min.empty()) {
    layer.min.assign(static_cast<size_t>(width_), kInf);
    layer.max.assign(static_cast<size_t>(width_), -kInf);
  }
  const auto& slides = config_.sliding_layers;
  RopeTable& rope = !slides.empty() && slides[static_cast<size_t>(rows.layer)] ? rope_local_ : rope_;
  rope.Reserve(rows.first_position + rows.num_rows);
  const int64_t half = config_.head_dim / 2;
  std::vector<float> row(static_cast<size_t>(width_));
  for (int64_t t = std::max<int64_t>(0, first_position_ - rows.first_position); t < rows.num_rows; ++t) {
    const float *in = rows.data + t * width_, *cos = rope.cos(rows.first_position + t),
                *sin = rope.sin(rows.first_position + t);
    for (int64_t h = 0; h < config_.num_kv_heads; ++h) {
      const float* x = in + h * config_.head_dim;
      float* y = row.data() + h * config_.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        y[i] = x[i] * cos[i] + x[i + half] * sin[i];
        y[i + half] = x[i + half] * cos[i] - x[i] * sin[i];
      }
    }
    for (size_t c = 0; c < row.size(); ++c) {
      layer.min[c] = std::min(layer.min[c], row[c]);
      layer.max[c] = std::max(layer.max[c], row[c]);
    }
    Keep(layer, row);
  }
}

// When there is no more room, every second row goes and half as many come in.
void KeyObserver::Keep(Layer& layer, const std::vector<float>& row) {
  if (layer.seen++ % layer.stride != 0) return;
  if (static_cast<int64_t>(layer.kept.size()) == max_rows_ * width_) {
    const int64_t rows = max_rows_ / 2 + max_rows_ % 2;
    for (int64_t r = 1; r < rows; ++r) {
      std::copy_n(layer.kept.begin() + 2 * r * width_, width_, layer.kept.begin() + r * width_);
    }
    layer.kept.resize(static_cast<size_t>(rows * width_));
    layer.stride *= 2;
    if ((layer.seen - 1) % layer.stride != 0) return;
  }
  layer.kept.insert(layer.kept.end(), row.begin(), row.end());
}

std::vector<KeyStats> KeyObserver::Take() {
  std::vector<KeyStats> out;
  for (size_t l = 0; l < layers_.size(); ++l) {
    Layer& layer = layers_[l];
    if (layer.seen == 0) continue;
    KeyStats stats{.layer = static_cast<int>(l), .rows = layer.seen};
    const size_t width = static_cast<size_t>(width_), rows = layer.kept.size() / width;
    stats.quantiles.resize(kKeyQuantiles * width);
    pool_.ParallelFor(width_, 4, [&](int64_t begin, int64_t end) {
      std::vector<float> values(rows);
      for (size_t c = static_cast<size_t>(begin); c < static_cast<size_t>(end); ++c) {
        for (size_t r = 0; r < rows; ++r) values[r] = layer.kept[r * width + c];
        std::sort(values.begin(), values.end());
        for (int i = 0; i < kKeyQuantiles; ++i) {
          stats.quantiles[static_cast<size_t>(i) * width + c] = Quantile(values, KeyQuantileShare(i));
        }
        stats.quantiles[c] = layer.min[c];
        stats.quantiles[(kKeyQuantiles - 1) * width + c] = layer.max[c];
      }
    });
    layer = {};
    out.push_back(std::move(stats));
  }
  return out;
}

}  // namespace spikefold
