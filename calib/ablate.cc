#include "calib/ablate.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "calib/ablation_edits.h"
#include "calib/eval_summary.h"
#include "calib/eval_windows.h"
#include "calib/scoring_arm.h"
#include "calib/window_run.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int64_t kMeanWindows = 16;

// Lets one scoring arm serve all changes, one after the other.
class Switch : public Interventions {
 public:
  Interventions* now = nullptr;
  bool Wants(int layer, ValueKind value) const override { return now->Wants(layer, value); }
  AttentionView View(int layer) const override { return now->View(layer); }
  void Edit(int layer, ValueKind value, float* data, int64_t num_rows, int64_t width,
            int64_t first_position) override {
    now->Edit(layer, value, data, num_rows, width, first_position);
  }
};

struct Arm {
  AblationArm what;
  std::unique_ptr<AblationIntervention> change;
  std::vector<WindowScores> scores;
};

std::vector<AblationArm> ListArms(const OutlierMap& map, const ModelConfig& config) {
  using enum AblationEdit;
  std::vector<AblationArm> arms;
  const auto add = [&](AblationArm arm) {
    arms.push_back(arm);
    arm.control = true;
    arms.push_back(arm);
  };
  for (size_t s = 0; s < map.stages.size(); ++s) {
    const int stage = static_cast<int>(s);
    for (const AblationEdit edit : {kZero, kMean, kShuffle, kNoise}) add({.stage = stage, .edit = edit});
    if (map.stages[s].per_window == 0) continue;
    for (const AblationEdit edit : {kZero, kMean}) add({.stage = stage, .edit = edit, .first_only = true});
  }
  for (const AblationEdit edit : {kZero, kMean, kHide, kHideLate}) {
    if (edit != kHideLate || !map.stages.empty()) add({.edit = edit});
  }
  const int64_t num_heads = config.num_layers * config.num_heads;
  for (const int64_t share : {32, 8}) {
    const int64_t heads = std::max<int64_t>(1, num_heads / share);
    for (const AblationEdit edit : {kZero, kMean}) add({.edit = edit, .heads = heads});
  }
  return arms;
}

std::vector<Arm> MakeArms(const OutlierMap& map, const ModelConfig& config, const AblationObserver& seen,
                          uint64_t seed) {
  std::vector<Arm> arms;
  const int late = map.stages.empty() ? 0 : map.stages.back().step_up + 1;
  for (const AblationArm& what : ListArms(map, config)) {
    Arm arm{.what = what, .change = nullptr, .scores = {}};
    if (what.heads > 0) {
      arm.change = std::make_unique<HeadEdit>(config, what, seen, seed);
    } else if (what.stage >= 0) {
      arm.change = std::make_unique<SpikeEdit>(map.stages[static_cast<size_t>(what.stage)], what, seen, seed);
    } else {
      arm.change = std::make_unique<SinkEdit>(config, what, late, seen, seed);
    }
    arms.push_back(std::move(arm));
  }
  return arms;
}

absl::Status CheckModel(const RuntimeModel& model, const CalibStats& stats) {
  if (model.prefix() != nullptr || !model.graph().rotations.empty() || !model.kv().is_float()) {
    return absl::InvalidArgumentError(
        "ablation: the model has a prefix, rotations or a quantized cache; use the float model it came from");
  }
  if (stats.windows.empty()) {
    return absl::InvalidArgumentError("ablation: the scan holds no windows to take means over; scan again");
  }
  return absl::OkStatus();
}

}  // namespace

const char* AblationEditName(AblationEdit edit) {
  switch (edit) {
    case AblationEdit::kZero:
      return "zero";
    case AblationEdit::kMean:
      return "mean";
    case AblationEdit::kShuffle:
      return "shuffle";
    case AblationEdit::kNoise:
      return "noise";
    case AblationEdit::kHide:
      return "hide";
    case AblationEdit::kHideLate:
      return "hide-late";
  }
  return "?";
}

absl::StatusOr<AblationResult> Ablate(const RuntimeModel& model, const Tokenizer& tokenizer,
                                      const OutlierMap& map, const CalibStats& stats, const TokenStream& text,
                                      const AblationOptions& options) {
  SF_RETURN_IF_ERROR(CheckModel(model, stats));
  const bool bos = tokenizer.add_bos() && tokenizer.bos_id() >= 0;
  const EvalOptions how{.bos = bos ? BosMode::kWindow : BosMode::kNone,
                        .context = options.context,
                        .max_windows = options.num_windows};
  SF_ASSIGN_OR_RETURN(const EvalWindows plan, MakeEvalWindows(text.ids, tokenizer.bos_id(), bos, how));

  AblationObserver seen(map, model.graph().config);
  const Windows observed = Shorter(stats.windows, kMeanWindows, INT64_MAX);
  SF_RETURN_IF_ERROR(RunWindows(model, observed, nullptr, seen, "taking means", options.progress));

  std::vector<Arm> arms = MakeArms(map, model.graph().config, seen, options.seed);
  const int64_t longest = plan.context + 1;
  Switch change;
  ScoringArm untouched(model, nullptr, longest), changed(model, nullptr, longest, {.interventions = &change});
  std::vector<WindowScores> own;
  const int64_t total = static_cast<int64_t>(plan.windows.size() * arms.size());
  int64_t done = 0;
  for (const EvalWindow& window : plan.windows) {
    SF_RETURN_IF_ERROR(untouched.Run(window));
    SF_ASSIGN_OR_RETURN(WindowScores alone, ScoreWindow(untouched, nullptr));
    own.push_back(std::move(alone));
    for (Arm& arm : arms) {
      if (!Report(options.progress, "ablating", done++, total)) {
        return absl::CancelledError(
            absl::StrCat("ablation: stopped after ", done - 1, " of ", total, " runs"));
      }
      change.now = arm.change.get();
      arm.change->Begin(static_cast<int64_t>(window.tokens.size()));
      SF_RETURN_IF_ERROR(changed.Run(window));
      SF_ASSIGN_OR_RETURN(WindowScores scores, ScoreWindow(untouched, &changed));
      arm.scores.push_back(std::move(scores));
    }
  }
  Report(options.progress, "ablating", total, total);

  EvalResult alone;
  Summarize(own, alone);
  AblationResult result{.bos = plan.bos,
                        .num_windows = static_cast<int64_t>(plan.windows.size()),
                        .context = plan.context,
                        .num_scored = alone.num_scored,
                        .num_mean_windows = static_cast<int64_t>(observed.size()),
                        .ppl = alone.ppl,
                        .ppl_se = alone.ppl_se};
  for (Arm& arm : arms) {
    arm.what.per_window =
        static_cast<double>(arm.change->num_changed()) / static_cast<double>(plan.windows.size());
    Summarize(arm.scores, arm.what.result);
    result.arms.push_back(std::move(arm.what));
  }
  return result;
}

}  // namespace spikefold
