#include "calib/sinks.h"

#include <algorithm>
#include <cmath>

#include "calib/median.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Mean over rows of |v - mean v| over |mean v|.
double Variation(const std::vector<float>& rows, size_t width) {
  const size_t count = rows.size() / width;
  std::vector<double> mean(width, 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    mean[i % width] += static_cast<double>(rows[i]) / static_cast<double>(count);
  }
  double distances = 0, squares = 0;
  for (const double m : mean) squares += m * m;
  for (size_t t = 0; t < count; ++t) {
    double distance = 0;
    for (size_t i = 0; i < width; ++i) {
      const double difference = static_cast<double>(rows[t * width + i]) - mean[i];
      distance += difference * difference;
    }
    distances += std::sqrt(distance);
  }
  return squares > 0 && count > 0 ? distances / static_cast<double>(count) / std::sqrt(squares) : 0;
}

class SinkObserver : public Taps {
 public:
  explicit SinkObserver(const ModelConfig& config)
      : num_heads_(static_cast<size_t>(config.num_heads)),
        mass_(static_cast<size_t>(config.num_layers * config.num_heads), 0),
        key_(static_cast<size_t>(config.num_layers), 0),
        value_(key_),
        first_values_(static_cast<size_t>(config.num_layers)),
        other_values_(first_values_) {}

  bool Wants(int layer, ValueKind value) const override {
    return layer >= 0 && (value == ValueKind::kK || value == ValueKind::kV);
  }
  bool WantsAttention(int layer) const override { return layer >= 0; }
  void OnRows(const TapRows& rows) override {
    if (rows.value == ValueKind::kV) {
      const auto keep = [&](int64_t t, std::vector<float>& out) {
        out.insert(out.end(), rows.data + t * rows.width, rows.data + (t + 1) * rows.width);
      };
      keep(0, first_values_[static_cast<size_t>(rows.layer)]);
      keep(rows.num_rows / 2, other_values_[static_cast<size_t>(rows.layer)]);
    }
    std::vector<double> norms;
    for (int64_t t = 0; t < rows.num_rows; ++t) {
      double squares = 0;
      for (int64_t c = 0; c < rows.width; ++c) {
        const double v = static_cast<double>(rows.data[t * rows.width + c]);
        squares += v * v;
      }
      norms.push_back(std::sqrt(squares));
    }
    const double first = norms.front();
    norms.erase(norms.begin());
    const double typical = Median(std::move(norms));
    auto& out = rows.value == ValueKind::kK ? key_ : value_;
    if (typical > 0) out[static_cast<size_t>(rows.layer)] += first / typical;
  }
  void OnAttention(const TapAttention& a) override {
    for (int64_t h = 0; h < a.num_heads; ++h) {
      mass_[static_cast<size_t>(a.layer) * num_heads_ + static_cast<size_t>(h)] +=
          a.column_mass[h * a.num_positions] / static_cast<double>(a.num_rows);
    }
  }

  SinkMap Map(const ModelConfig& config, double num_windows) const {
    SinkMap map{.num_layers = config.num_layers, .num_heads = config.num_heads, .mass = mass_};
    int64_t sinks = 0;
    for (double& mass : map.mass) {
      mass /= num_windows;
      sinks += mass > kSinkMass;
    }
    map.ratio = static_cast<double>(sinks) / static_cast<double>(map.mass.size());
    map.key_norm_ratio = key_;
    map.value_norm_ratio = value_;
    for (double& v : map.key_norm_ratio) v /= num_windows;
    for (double& v : map.value_norm_ratio) v /= num_windows;
    const size_t width = static_cast<size_t>(config.num_kv_heads * config.head_dim);
    for (size_t l = 0; l < first_values_.size(); ++l) {
      map.value_variation.push_back(Variation(first_values_[l], width));
      map.other_value_variation.push_back(Variation(other_values_[l], width));
    }
    return map;
  }

 private:
  size_t num_heads_;
  std::vector<double> mass_;         // [num_layers, num_heads]
  std::vector<double> key_, value_;  // [num_layers]
  std::vector<std::vector<float>> first_values_,
      other_values_;  // [num_layers][windows, num_kv_heads * head_dim]
};

}  // namespace

absl::StatusOr<SinkMap> MapSinks(const RuntimeModel& model, const Windows& windows,
                                 const std::vector<Taps*>& watchers, const Progress& progress) {
  SinkObserver observer(model.graph().config);
  std::vector<Taps*> taps = watchers;
  taps.push_back(&observer);
  TapFan fan(std::move(taps));
  SF_RETURN_IF_ERROR(RunWindows(model, windows, nullptr, fan, "mapping sinks", progress));
  return observer.Map(model.graph().config, std::max<double>(1, static_cast<double>(windows.size())));
}

}  // namespace spikefold
