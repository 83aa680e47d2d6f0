#include "calib/spike_stages.h"

#include <algorithm>

namespace spikefold {
namespace {

// Where the tables have a layer's output; -1 is the embedding.
size_t After(int layer) { return static_cast<size_t>(int64_t{layer} + 1); }

// Half and quarter of the level bound the plateau and the whole stage.
constexpr double kPlateauShare = 0.5, kStageShare = 0.25;

class Finder {
 public:
  explicit Finder(const LifeTable& table) : t_(table), taken_(static_cast<size_t>(table.num_layers)) {}

  std::vector<StageShape> Run() {
    StageShape stage;
    while (NextPeak(stage)) {
      Extend(stage);
      stages_.push_back(stage);
    }
    std::sort(stages_.begin(), stages_.end(),
              [](const StageShape& a, const StageShape& b) { return a.step_up < b.step_up; });
    return std::move(stages_);
  }

 private:
  // The mean window peak of a channel after a layer; layer -1 is the embedding.
  double Peak(int layer, int64_t channel) const {
    return t_.channel_peak[After(layer)][static_cast<size_t>(channel)];
  }
  int64_t Leader(int layer) const {
    const auto& peaks = t_.channel_peak[After(layer)];
    return std::max_element(peaks.begin(), peaks.end()) - peaks.begin();
  }

  // The layer that stands highest over its ordinary rows among those that belong to no stage yet.
  bool NextPeak(StageShape& stage) {
    stage.ratio = 0;
    for (int layer = 0; layer < t_.num_layers; ++layer) {
      const int64_t leader = Leader(layer);
      const double typical = t_.typical_peak[After(layer)];
      const double level = Peak(layer, leader);
      const double ratio = typical > 0 ? level / typical : 0;
      if (ratio < kSpikeRatio || ratio <= stage.ratio || Taken(layer, leader)) continue;
      if (OnSlope(layer, leader, level)) continue;
      stage = {.peak_layer = layer, .leader = leader, .level = level, .ratio = ratio};
    }
    return stage.ratio > 0;
  }
  bool Taken(int layer, int64_t channel) const {
    const auto& channels = taken_[static_cast<size_t>(layer)];
    return std::find(channels.begin(), channels.end(), channel) != channels.end();
  }
  // Part of the way up or down of a stage on the same channel: no valley lies between.
  bool OnSlope(int layer, int64_t channel, double level) const {
    for (const StageShape& stage : stages_) {
      if (stage.leader != channel) continue;
      double valley = level;
      const int step = stage.peak_layer > layer ? 1 : -1;
      for (int l = layer; l != stage.peak_layer; l += step) valley = std::min(valley, Peak(l, channel));
      if (valley > kStageShare * level) return true;
    }
    return false;
  }

  // Mean height of the rows that spike at the stage's peak layer, layer by layer from the embedding: rows are
  // followed, because a window's largest row after a step down may be one that the step hardly touched. Where
  // another channel leads a row, the height is bounded by the row's peak and by the channel's.
  std::vector<double> Curve(const StageShape& stage) const {
    const size_t at = After(stage.peak_layer);
    std::vector<double> sum(t_.row_peak.size(), 0);
    double count = 0;
    for (size_t row = 0; row < t_.row_peak[at].size(); ++row) {
      const bool spike = t_.row_channel[at][row] == stage.leader &&
                         static_cast<double>(t_.row_peak[at][row]) > kSpikeRowShare * stage.level;
      if (!spike) continue;
      for (size_t l = 0; l < sum.size(); ++l) {
        const double height = static_cast<double>(t_.row_peak[l][row]);
        const bool leads = t_.row_channel[l][row] == stage.leader;
        sum[l] += leads ? height : std::min(height, t_.channel_peak[l][static_cast<size_t>(stage.leader)]);
      }
      count += 1;
    }
    for (double& value : sum) value /= count > 0 ? count : 1;
    return sum;
  }

  void Extend(StageShape& stage) {
    const int last = static_cast<int>(t_.num_layers) - 1;
    const std::vector<double> curve = Curve(stage);
    const auto peak = [&](int layer) { return curve[After(layer)]; };
    const double level = peak(stage.peak_layer);
    int up = stage.peak_layer, down = stage.peak_layer;  // first and last layer of at least a quarter
    while (up - 1 >= -1 && peak(up - 1) >= kStageShare * level) --up;
    while (down < last && peak(down + 1) >= kStageShare * level) ++down;
    for (int l = std::max(up, 0); l <= down; ++l) taken_[static_cast<size_t>(l)].push_back(stage.leader);
    stage.step_up = std::max(up, 0);
    double rise = 0;
    for (int l = std::max(up, 0); l <= stage.peak_layer; ++l) {
      if (peak(l) - peak(l - 1) > rise) {
        rise = peak(l) - peak(l - 1);
        stage.step_up = l;
      }
    }
    const int end = std::min(down + 1, last);  // the layer after which less than a quarter is left, if any
    double lowest = level, fall = 0;
    int largest_fall = last + 1;
    for (int l = stage.peak_layer + 1; l <= end; ++l) {
      lowest = std::min(lowest, peak(l));
      if (peak(l - 1) - peak(l) > fall) {
        fall = peak(l - 1) - peak(l);
        largest_fall = l;
      }
    }
    stage.step_down = lowest < kPlateauShare * level ? largest_fall : last + 1;
  }

  const LifeTable& t_;
  std::vector<std::vector<int64_t>> taken_;  // [num_layers] leaders of the stages that cover the layer
  std::vector<StageShape> stages_;
};

}  // namespace

std::vector<StageShape> FindStages(const LifeTable& table) { return Finder(table).Run(); }

}  // namespace spikefold
