// What the model loses when its spikes and its attention sink are changed: float model against itself, on the
// same windows. Each change has its control, the same change at as many random places. The question and the
// arms are those of M. Sun et al., "Massive Activations in Large Language Models" (2402.17762, section 2.2).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/census.h"
#include "calib/dataset.h"
#include "calib/evaluate.h"

namespace spikefold {

enum class AblationEdit {
  kZero,
  kMean,     // the same channel's (the sink value's) mean over the scan's windows
  kShuffle,  // stages only: the channels of a row exchange their values
  kNoise,    // stages only: normal with that channel's root mean square
  // The sink only: no later row attends to it, the others share its mass. In all layers, where the next token
  // may take its place; or in those behind the layer that writes the last stage, where none can.
  kHide,
  kHideLate,
};
const char* AblationEditName(AblationEdit edit);  // "zero", ...

struct AblationArm {
  int stage = -1;  // index into OutlierMap::stages; -1: the attention sink, the first token of a window
  AblationEdit edit = AblationEdit::kZero;
  int64_t heads = 0;        // > 0: the contexts of so many attention heads instead, those that vary least
  bool first_only = false;  // stages: of spike rows only the first of a window
  bool control = false;     // at as many random places (heads: random ones)
  double per_window = 0;    // entries of the residual (stage) or tokens in all layers (sink) changed
  EvalResult result;        // against the untouched model
};
struct AblationOptions {
  int64_t num_windows = 8, context = 512;
  uint64_t seed = 1;
  Progress progress;
};
struct AblationResult {
  BosMode bos = BosMode::kNone;  // as the tokenizer wishes
  int64_t num_windows = 0, context = 0, num_scored = 0;
  int64_t num_mean_windows = 0;  // of the scan: what means were taken over
  double ppl = 0, ppl_se = 0;    // untouched
  std::vector<AblationArm> arms;
};
// A stage is changed in the residual after the layer that writes it (SpikeStage::step_up): in rows whose
// leading channel exceeds a quarter of the plateau, the stage's channels; zero and mean also in the first of
// those rows alone, where later ones spike too. The sink is changed for all later
// rows, in all layers; what its own row computes stays as it is. A head whose context is a constant is a bias
// of o_proj: heads are taken by the share of their context's power that its mean leaves, and get zero or that
// mean (of all rows but a window's first) in every row: an eighth of all heads, and a thirty-second.
// InvalidArgument: a quantized model or one with rotations, a text too short for one window, a scan without
// windows.
absl::StatusOr<AblationResult> Ablate(const RuntimeModel& model, const Tokenizer& tokenizer,
                                      const OutlierMap& map, const CalibStats& stats, const TokenStream& text,
                                      const AblationOptions& options);

}  // namespace spikefold
