// Learns R1 and each layer's R2 where the folds draw them: from their Hadamard matrices on, an orthogonal
// factor of each is moved so that rounding what the linears read costs the model less. The student is the
// folded float model behind the plan's prefix, its linears' inputs rounded as the plan says and its weights
// left in float, since the rounding that comes later (GPTQ, trellis codes) takes up what a rotation does to
// them. (Z. Liu et al., "SpinQuant", 2405.16406, section 3.3; weights in float: their section 4.3.)
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "quant/folds/learned_rotations.h"
#include "quant/prepare.h"
#include "quant/refine/descent.h"

namespace spikefold {

struct RotationsLearnt : Learning {
  LearnedRotations rotations;  // sealed; the drawn ones where no step was better
};

// `prepared` is what a recipe makes of `base`, with R1, R2 or both, and `stats` prepared.stats_or(scan). The
// rate is the angle in radians that a step turns an axis by, where gradients agree. InvalidArgument: a plan
// without them, or with what belongs to one basis (kept columns, super weights, spike rows, channel scales),
// or whose linears read nothing that is rounded; no windows. Unimplemented: no plugin. Internal: gradients
// that are not finite. Cancelled.
absl::StatusOr<RotationsLearnt> LearnRotations(const CheckpointReader& base, const Prepared& prepared,
                                               const CalibStats* stats, const LearningOptions& options);

}  // namespace spikefold
