#include "calib/evaluate.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "calib/eval_summary.h"
#include "calib/eval_windows.h"
#include "calib/scoring_arm.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"

namespace spikefold {
namespace {

// Rounds what every linear reads to bf16: the noise floor of a 16-bit implementation.
class RoundToBf16 : public Interventions {
 public:
  bool Wants(int, ValueKind value) const override {
    return value == ValueKind::kAttnIn || value == ValueKind::kCtx || value == ValueKind::kFfnIn ||
           value == ValueKind::kDownIn || value == ValueKind::kFinal;
  }
  void Edit(int, ValueKind, float* data, int64_t num_rows, int64_t width, int64_t) override {
    for (int64_t i = 0; i < num_rows * width; ++i) data[i] = Bf16ToFloat(FloatToBf16(data[i]));
  }
};

int64_t MaxTokens(const std::vector<EvalWindow>& windows) {
  size_t tokens = 0;
  for (const EvalWindow& window : windows) tokens = std::max(tokens, window.tokens.size());
  return static_cast<int64_t>(tokens);
}

absl::Status CheckModels(const RuntimeModel& quantized, const RuntimeModel& reference, int64_t positions) {
  const ModelConfig &q = quantized.graph().config, &r = reference.graph().config;
  if (q.vocab != r.vocab) {
    return absl::InvalidArgumentError(absl::StrCat("vocabulary: the quantized model has ", q.vocab,
                                                   " tokens and the reference ", r.vocab,
                                                   "; both must come from the same model"));
  }
  for (const int64_t allowed : {q.max_positions, r.max_positions}) {
    if (allowed == 0 || positions <= allowed) continue;
    return absl::InvalidArgumentError(absl::StrCat("context: ", positions,
                                                   " positions with prefix and BOS; the model allows ",
                                                   allowed, "; use a shorter context"));
  }
  return absl::OkStatus();
}

// The whole run: which arms there are, window by window.
class Evaluation {
 public:
  Evaluation(const RuntimeModel& quantized, const RuntimeModel& reference, const EvalOptions& options)
      : quantized_(quantized), reference_(reference), options_(options) {}

  absl::StatusOr<EvalResult> Run(const Tokenizer& tokenizer, const TokenStream& text) {
    SF_ASSIGN_OR_RETURN(plan_, MakeEvalWindows(text.ids, tokenizer.bos_id(), tokenizer.add_bos(), options_));
    SF_RETURN_IF_ERROR(MakeArms(tokenizer));
    before_ = quantized_.ops().counters();
    const int64_t count = static_cast<int64_t>(windows_->size());
    for (int64_t w = 0; w < count; ++w) {
      if (!Report(options_.progress, "evaluating", w, count)) {
        return absl::CancelledError(absl::StrCat("evaluation: stopped after ", w, " of ", count, " windows"));
      }
      SF_RETURN_IF_ERROR(RunWindow(static_cast<size_t>(w)));
    }
    Report(options_.progress, "evaluating", count, count);
    return Finish(tokenizer, text);
  }

 private:
  absl::Status MakeArms(const Tokenizer& tokenizer) {
    const KvPrefix* prefix = quantized_.prefix();
    if (prefix != nullptr && prefix->empty()) prefix = nullptr;
    windows_ = &plan_.windows;
    if (prefix != nullptr) {
      const auto& tokens = prefix->tokens;
      if (HoldsBos(prefix, tokenizer)) {
        prefixed_ = DropLeadingBos(plan_.windows);
        windows_ = &prefixed_;
      }
      SF_ASSIGN_OR_RETURN(reference_prefix_, ComputePrefix(reference_, tokens));
    }
    const int64_t max_tokens = MaxTokens(plan_.windows);
    const int64_t prefix_size = prefix ? prefix->size() : 0;
    SF_RETURN_IF_ERROR(CheckModels(quantized_, reference_, max_tokens + prefix_size));
    const KvPrefix* before = prefix ? &reference_prefix_ : nullptr;
    // A model beside itself: its weights with its own cache against a float one.
    const bool same = &quantized_ == &reference_;
    const KvOptions kv = same ? KvOptions() : reference_.kv();
    memory_ = same ? nullptr : options_.reference_memory;
    reference_arm_.emplace(reference_, before, max_tokens, ForwardOptions(), kv, memory_);
    reference_arm_->keep_logits();
    if (!same || !quantized_.kv().is_float()) {
      quantized_arm_.emplace(quantized_, prefix, max_tokens, ForwardOptions(), quantized_.kv());
    }
    if (prefix != nullptr && options_.prefix_control)
      control_arm_.emplace(reference_, nullptr, max_tokens, ForwardOptions(), kv, memory_);
    if (options_.noise_floor)
      noise_arm_.emplace(reference_, before, max_tokens, ForwardOptions{.interventions = &round_}, kv);
    return absl::OkStatus();
  }

  absl::Status RunWindow(size_t w) {
    const EvalWindow& window = (*windows_)[w];
    SF_RETURN_IF_ERROR(reference_arm_->Run(window));
    if (quantized_arm_) {
      const bool watched = static_cast<int64_t>(w) < options_.watch_windows;
      quantized_arm_->set_taps(watched ? options_.watch : nullptr);
      SF_RETURN_IF_ERROR(quantized_arm_->Run(window));
    }
    SF_ASSIGN_OR_RETURN(WindowScores paired,
                        ScoreWindow(*reference_arm_, quantized_arm_ ? &*quantized_arm_ : nullptr));
    scores_.push_back(std::move(paired));
    if (control_arm_) SF_RETURN_IF_ERROR(ScoreControl(plan_.windows[w]));
    if (noise_arm_) {
      const double before = reference_arm_->seconds();  // its logits are made again: not counted
      SF_RETURN_IF_ERROR(noise_arm_->Run(window));
      SF_ASSIGN_OR_RETURN(WindowScores noise, ScoreWindow(*reference_arm_, &*noise_arm_));
      noise_.push_back(std::move(noise));
      seconds_noise_ += reference_arm_->seconds() - before;
    }
    return absl::OkStatus();
  }

  // The reference alone: the same beside every quantized model.
  absl::Status ScoreControl(const EvalWindow& window) {
    if (const auto* known = memory_ ? memory_->FindScores(window.tokens, window.score_from) : nullptr) {
      control_.push_back(*known);
      return absl::OkStatus();
    }
    SF_RETURN_IF_ERROR(control_arm_->Run(window));
    SF_ASSIGN_OR_RETURN(WindowScores alone, ScoreWindow(*control_arm_, nullptr));
    if (memory_ != nullptr) memory_->RememberScores(window.tokens, window.score_from, alone);
    control_.push_back(std::move(alone));
    return absl::OkStatus();
  }

  EvalResult Finish(const Tokenizer& tokenizer, const TokenStream& text) {
    EvalResult result{.protocol = options_.protocol, .bos = plan_.bos, .context = plan_.context};
    result.num_windows = static_cast<int64_t>(scores_.size());
    result.num_text_tokens = static_cast<int64_t>(text.ids.size());
    Summarize(scores_, result);
    result.ppl_reference_no_prefix = result.ppl_reference;
    if (control_arm_) {
      EvalResult control;
      Summarize(control_, control);
      result.ppl_reference_no_prefix = control.ppl_reference;
      result.prefix_ratio = result.ppl_reference / control.ppl_reference;
    }
    if (noise_arm_) {
      EvalResult noise;
      Summarize(noise_, noise);
      result.noise_floor_kld = noise.kld_mean;
      result.noise_floor_same_top = noise.same_top;
    }
    int64_t bytes = 0;
    for (const EvalWindow& window : *windows_) {
      // Not the scored tokens alone: decoders take the blank off a text's first token.
      const absl::Span<const int32_t> tokens(window.tokens);
      bytes += static_cast<int64_t>(tokenizer.Decode(tokens).size());
      bytes -=
          static_cast<int64_t>(tokenizer.Decode(tokens.first(static_cast<size_t>(window.score_from))).size());
    }
    if (bytes > 0) {
      const double nats = std::log(result.ppl) * static_cast<double>(result.num_scored);
      result.bits_per_byte = nats / (std::log(2.0) * static_cast<double>(bytes));
    }
    result.seconds_reference = std::max(0.0, reference_arm_->seconds() - seconds_noise_);
    const OpCounters after = quantized_.ops().counters();
    result.num_missed_spike_rows = after.missed_spike_rows - before_.missed_spike_rows;
    result.num_saturated = after.saturated - before_.saturated;
    result.seconds_quantized = quantized_arm_ ? quantized_arm_->seconds() : result.seconds_reference;
    return result;
  }

  const RuntimeModel &quantized_, &reference_;
  const EvalOptions& options_;
  EvalWindows plan_;
  std::vector<EvalWindow> prefixed_;
  std::vector<EvalWindow>* windows_ = nullptr;  // what the paired arms run
  KvPrefix reference_prefix_;
  HiddenMemory* memory_ = nullptr;
  RoundToBf16 round_;
  std::optional<ScoringArm> reference_arm_, quantized_arm_, control_arm_, noise_arm_;
  std::vector<WindowScores> scores_, control_, noise_;
  OpCounters before_;
  double seconds_noise_ = 0;
};

}  // namespace

absl::StatusOr<EvalResult> Evaluate(const RuntimeModel& quantized, const RuntimeModel& reference,
                                    const Tokenizer& tokenizer, const TokenStream& text,
                                    const EvalOptions& options) {
  return Evaluation(quantized, reference, options).Run(tokenizer, text);
}

}  // namespace spikefold
