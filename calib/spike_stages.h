// Where spikes are written, carried and removed, from the residual's peaks alone.
#pragma once

#include <cstdint>
#include <vector>

#include "calib/observers/life_observer.h"

namespace spikefold {

struct StageShape {
  int step_up = 0, step_down = 0;  // as in SpikeStage; layers
  int peak_layer = 0;              // where the spike stands highest over ordinary rows
  int64_t leader = 0;              // channel
  double level = 0;                // its mean window peak at peak_layer
  double ratio = 0;                // level over the typical row peak there
};
// Stages in order of step_up. A stage is a layer whose leading channel peaks at least kSpikeRatio times as
// high as an ordinary row does anywhere, with all layers around it where that channel keeps a quarter of the
// level. The layer that adds most to the channel on the way up is the step up, the one that takes most away
// the step down. Ratios only: a model's scale does not matter.
std::vector<StageShape> FindStages(const LifeTable& table);

// Row peaks of models without spikes stay within 5 times the median row's (measured on two); spikes start
// above 10.
inline constexpr double kSpikeRatio = 8;
// A row belongs to a stage if its leading channel exceeds this share of the plateau.
inline constexpr double kSpikeRowShare = 0.25;

}  // namespace spikefold
