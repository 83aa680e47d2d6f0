// One model under one input: forward of a window, then logits of its scored rows in blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "calib/eval_summary.h"
#include "calib/eval_windows.h"
#include "calib/hidden_memory.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"

namespace spikefold {

class ScoringArm {
 public:
  // Windows of up to `max_tokens` tokens behind `prefix` (null: none), their keys and values kept as `kv`
  // says. All references outlive the arm. A window that `memory` (may be null; of this very model, cache and
  // options) holds is not run again.
  ScoringArm(const RuntimeModel& model, const KvPrefix* prefix, int64_t max_tokens,
             const ForwardOptions& options = {}, const KvOptions& kv = {}, HiddenMemory* memory = nullptr);

  void set_taps(Taps* taps) { options_.taps = taps; }  // of the next runs; may be null
  void set_interventions(Interventions* edits) { options_.interventions = edits; }  // the same
  void keep_logits() { keeps_logits_ = true; }  // in `memory`, and looks for them there
  // Instead of a run: what feeds the head [tokens, d], computed elsewhere.
  void Take(const EvalWindow& window, absl::Span<const float> hidden);
  absl::Status Run(const EvalWindow& window);  // which must live until the next Run
  // Logits [rows, vocab] that predict the scored tokens first ... first + rows - 1 of the window.
  absl::StatusOr<const float*> Block(int64_t first, int64_t rows);
  // The same, kept by the backend as Ops::KeepLogits() says.
  absl::Status Keep(LogitsOf of, int64_t first, int64_t rows);
  const EvalWindow& window() const { return *window_; }
  int64_t vocab() const { return model_.graph().config.vocab; }
  ThreadPool& pool() const { return model_.pool(); }
  Ops& ops() const { return model_.ops(); }
  // Spent in Run, Block and Keep; 0 where some of it was remembered, so that it says nothing of the model's
  // speed.
  double seconds() const { return remembered_ ? 0 : seconds_; }

 private:
  // What feeds the head for the scored tokens from `first` on.
  absl::Span<const float> HeadRows(int64_t first, int64_t rows) const;

  const RuntimeModel& model_;
  ForwardOptions options_;
  KvCache cache_;
  std::vector<int32_t> prefix_tokens_;
  HiddenMemory* const memory_;
  bool keeps_logits_ = false;
  Tensor hidden_;  // [max_tokens, d]
  std::vector<float> logits_;
  const EvalWindow* window_ = nullptr;
  double seconds_ = 0;
  bool remembered_ = false;
};

// Scores of the window that both arms have run; `quantized` null: the reference alone.
absl::StatusOr<WindowScores> ScoreWindow(ScoringArm& reference, ScoringArm* quantized);

}  // namespace spikefold
