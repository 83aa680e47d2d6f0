#include "calib/census_activations.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "calib/median.h"
#include "calib/observers/stage_observer.h"
#include "calib/spike_stages.h"
#include "calib/super_weights.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// A unit is named if it makes up this share of what the layer's units together add to (take from) the leader.
constexpr double kUnitShare = 0.1;
constexpr size_t kMaxUnits = 4;
// A follower channel stands out over its own ordinary rows and is not negligible beside the leader.
constexpr double kFollowerShare = 0.02;
constexpr size_t kMaxChannels = 16, kMaxTokens = 12;

class Census {
 public:
  explicit Census(const ActivationCensusInput& input)
      : in_(input), config_(input.model.graph().config), num_layers_(static_cast<int>(config_.num_layers)) {}

  absl::StatusOr<ActivationCensus> Run() {
    shapes_ = FindStages(in_.life);
    for (const StageShape& shape : shapes_) out_.stages.push_back(FromLife(shape));
    SF_RETURN_IF_ERROR(AddDetails());
    WarnAboutWeights();
    return std::move(out_);
  }

 private:
  // Where the tables have a layer's output; -1 is the embedding.
  static size_t After(int layer) { return static_cast<size_t>(int64_t{layer} + 1); }
  double Level(const StageShape& shape, int layer) const {
    return in_.life.channel_peak[After(layer)][static_cast<size_t>(shape.leader)];
  }

  // Everything that row peaks tell.
  SpikeStage FromLife(const StageShape& shape) const {
    SpikeStage stage{.step_up = shape.step_up, .step_down = shape.step_down};
    std::vector<double> levels;
    for (int l = shape.step_up; l < shape.step_down; ++l) levels.push_back(Level(shape, l));
    stage.plateau = Median(levels);

    const size_t at = After(shape.peak_layer);
    const auto& peaks = in_.life.row_peak[at];
    const auto& channels = in_.life.row_channel[at];
    std::map<int32_t, int64_t> tokens;
    int64_t first = 0, later = 0;
    size_t row = 0;
    for (const auto& window : in_.windows) {
      for (size_t t = 0; t < window.size(); ++t, ++row) {
        const bool spike =
            channels[row] == shape.leader && static_cast<double>(peaks[row]) > kSpikeRowShare * stage.plateau;
        if (!spike) continue;
        if (t == 0) {
          ++first;
        } else {
          ++later;
          ++tokens[window[t]];
        }
      }
    }
    const double windows = static_cast<double>(in_.windows.size());
    stage.first_position_share = static_cast<double>(first) / windows;
    stage.per_window = static_cast<double>(later) / windows;
    for (const auto& [token, count] : tokens) {
      stage.tokens.emplace_back(in_.tokenizer.TokenText(token),
                                static_cast<double>(count) / static_cast<double>(later));
    }
    std::stable_sort(stage.tokens.begin(), stage.tokens.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    if (stage.tokens.size() > kMaxTokens) stage.tokens.resize(kMaxTokens);
    return stage;
  }

  // Looks again with one observer a stage, and one for super weights.
  absl::Status AddDetails() {
    std::vector<std::unique_ptr<StageObserver>> observers;
    DownProjObserver super_weights(config_.num_layers);
    std::vector<Taps*> taps = {&super_weights};
    for (size_t s = 0; s < shapes_.size(); ++s) {
      const StageShape& shape = shapes_[s];
      SF_ASSIGN_OR_RETURN(std::vector<float> up, DownProjRow(in_.reader, shape.step_up, shape.leader));
      std::vector<float> down;
      if (shape.step_down < num_layers_) {
        SF_ASSIGN_OR_RETURN(down, DownProjRow(in_.reader, shape.step_down, shape.leader));
      }
      observers.push_back(std::make_unique<StageObserver>(
          shape, out_.stages[s].plateau, std::move(up), std::move(down), config_.num_layers, config_.hidden));
      taps.push_back(observers.back().get());
    }
    TapFan fan(taps);
    SF_RETURN_IF_ERROR(in_.look_again(fan));
    for (size_t s = 0; s < shapes_.size(); ++s) Describe(s, *observers[s]);
    SF_ASSIGN_OR_RETURN(out_.super_weights, FindSuperWeights(in_.reader, in_.weights, super_weights));
    return absl::OkStatus();
  }

  void Describe(size_t s, const StageObserver& seen) {
    const StageShape& shape = shapes_[s];
    SpikeStage& stage = out_.stages[s];
    stage.near_constancy = seen.near_constancy();
    const std::vector<double> spike = seen.mean_spike(), ordinary = seen.mean_ordinary();
    const double leader = spike[static_cast<size_t>(shape.leader)];
    for (size_t c = 0; c < spike.size(); ++c) {
      const bool leads = static_cast<int64_t>(c) == shape.leader;
      const bool follows = spike[c] > kFollowerShare * leader && spike[c] > kSpikeRatio * ordinary[c];
      if (leads || follows) {
        stage.channels.push_back(
            {.channel = static_cast<int64_t>(c), .peak = seen.peak()[c], .leader = leads});
      }
    }
    std::stable_sort(stage.channels.begin(), stage.channels.end(),
                     [](const SpikeChannel& a, const SpikeChannel& b) { return a.peak > b.peak; });
    if (stage.channels.size() > kMaxChannels) stage.channels.resize(kMaxChannels);

    stage.writers = Units(shape, shape.step_up, seen.step_up(), 1);
    NoteAttention(s, shape.step_up, seen.step_up(), 1, "written");
    if (shape.step_down < num_layers_) {
      stage.removers = Units(shape, shape.step_down, seen.step_down(), -1);
      NoteAttention(s, shape.step_down, seen.step_down(), -1, "removed");
    }
  }

  UnitRef MakeRef(int layer, size_t unit) const {
    const UnitStrength& strength = in_.weights.units[static_cast<size_t>(layer)][unit];
    return {.layer = layer,
            .unit = static_cast<int64_t>(unit),
            .strength = static_cast<double>(strength.strength),
            .channel = strength.channel,
            .by_weights = in_.weights.Relative(layer, static_cast<int64_t>(unit)) >= kFlagRelative};
  }

  // Units that push the leader channel in direction `sign` on spike rows, strongest first; then those that
  // only the weights name.
  std::vector<UnitRef> Units(const StageShape& shape, int layer, const StepParts& parts, double sign) const {
    std::vector<size_t> order;
    double total = 0;
    for (size_t i = 0; i < parts.unit.size(); ++i) {
      if (sign * parts.unit[i] > 0) {
        total += sign * parts.unit[i];
        order.push_back(i);
      }
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return sign * parts.unit[a] > sign * parts.unit[b]; });
    std::vector<UnitRef> units;
    for (const size_t i : order) {
      if (units.size() == kMaxUnits || sign * parts.unit[i] < kUnitShare * total) break;
      units.push_back(MakeRef(layer, i));
      units.back().by_activations = true;
    }
    const auto& strengths = in_.weights.units[static_cast<size_t>(layer)];
    for (size_t i = 0; i < strengths.size(); ++i) {
      const bool named = std::any_of(units.begin(), units.end(),
                                     [&](const UnitRef& u) { return u.unit == static_cast<int64_t>(i); });
      const UnitRef ref = MakeRef(layer, i);
      if (!named && ref.by_weights && ref.channel == shape.leader) units.push_back(ref);
    }
    return units;
  }

  void NoteAttention(size_t stage, int layer, const StepParts& parts, double sign, absl::string_view what) {
    if (parts.rows == 0 || sign * parts.attention <= sign * parts.ffn) return;
    out_.notes.push_back(
        absl::StrFormat("stage %d is %s by the attention of layer %d (%.4g of %.4g on the leading channel)",
                        stage + 1, what, layer, parts.attention, parts.attention + parts.ffn));
  }

  // Flagged units that no stage on their channel explains: inside it, or beside one of its steps.
  void WarnAboutWeights() {
    for (int l = 0; l < num_layers_; ++l) {
      const auto& units = in_.weights.units[static_cast<size_t>(l)];
      for (size_t i = 0; i < units.size(); ++i) {
        const double relative = in_.weights.Relative(l, static_cast<int64_t>(i));
        const bool explained = std::any_of(shapes_.begin(), shapes_.end(), [&](const StageShape& s) {
          return s.leader == units[i].channel && l >= s.step_up - 1 && l <= s.step_down + 1;
        });
        if (relative < kFlagRelative || explained) continue;
        out_.warnings.push_back(
            absl::StrFormat("layer %d, unit %d: by its weights %.0f times as strong as the layer's median "
                            "unit (channel %d), but "
                            "the activations show no spike there",
                            l, i, relative, units[i].channel));
      }
    }
  }

  const ActivationCensusInput& in_;
  const ModelConfig& config_;
  int num_layers_;
  std::vector<StageShape> shapes_;
  ActivationCensus out_;
};

}  // namespace

absl::StatusOr<ActivationCensus> CensusActivations(const ActivationCensusInput& input) {
  return Census(input).Run();
}

}  // namespace spikefold
