#include "calib/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "calib/eval_summary.h"
#include "calib/eval_windows.h"
#include "calib/host_pool.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"

namespace spikefold {
namespace {

constexpr int64_t kLogitsInBlock = int64_t{1} << 23;  // 32 MiB of float32 a model
constexpr int64_t kMaxBlockRows = 128, kMinBlockRows = 16;

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

// One model under one input: forward of a window, then logits of its scored rows in blocks.
class Arm {
 public:
  Arm(const RuntimeModel& model, const KvPrefix* prefix, int64_t max_tokens,
      Interventions* interventions = nullptr)
      : model_(model),
        interventions_(interventions),
        cache_(model.graph().config, (prefix ? prefix->size() : 0) + max_tokens, prefix),
        hidden_(DType::kF32, {max_tokens, model.graph().config.hidden}) {}

  absl::Status Run(const EvalWindow& window) {
    const auto start = std::chrono::steady_clock::now();
    window_ = &window;
    cache_.Reset();
    const int64_t d = model_.graph().config.hidden;
    SF_RETURN_IF_ERROR(Forward(model_, window.tokens, cache_,
                               hidden_.as<float>().subspan(0, window.tokens.size() * static_cast<size_t>(d)),
                               {.interventions = interventions_}));
    AddTime(start);
    return absl::OkStatus();
  }
  // Logits that predict the scored tokens first ... first + rows - 1 of the window.
  absl::StatusOr<const float*> Block(int64_t first, int64_t rows) {
    const auto start = std::chrono::steady_clock::now();
    const ModelConfig& c = model_.graph().config;
    logits_.resize(static_cast<size_t>(rows * c.vocab));
    const size_t row = static_cast<size_t>(window_->score_from - 1 + first);
    SF_RETURN_IF_ERROR(Logits(model_,
                              hidden_.as<float>().subspan(row * static_cast<size_t>(c.hidden),
                                                          static_cast<size_t>(rows * c.hidden)),
                              absl::MakeSpan(logits_)));
    AddTime(start);
    return logits_.data();
  }
  int32_t target(int64_t scored) const {
    return window_->tokens[static_cast<size_t>(window_->score_from + scored)];
  }
  double seconds() const { return seconds_; }

 private:
  void AddTime(std::chrono::steady_clock::time_point start) {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  const RuntimeModel& model_;
  Interventions* interventions_;
  KvCache cache_;
  Tensor hidden_;
  std::vector<float> logits_;
  const EvalWindow* window_ = nullptr;
  double seconds_ = 0;
};

int64_t BlockRows(int64_t vocab) { return std::clamp(kLogitsInBlock / vocab, kMinBlockRows, kMaxBlockRows); }

// Scores `quantized` (null: the reference alone) against `reference`; both have run the same window.
absl::Status ScoreWindow(Arm& reference, Arm* quantized, int64_t num_scored, int64_t vocab,
                         WindowScores& scores) {
  scores.resize(static_cast<size_t>(num_scored));
  const int64_t block = BlockRows(vocab);
  for (int64_t first = 0; first < num_scored; first += block) {
    const int64_t rows = std::min(block, num_scored - first);
    SF_ASSIGN_OR_RETURN(const float* p, reference.Block(first, rows));
    const float* q = nullptr;
    if (quantized != nullptr) {
      SF_ASSIGN_OR_RETURN(q, quantized->Block(first, rows));
    }
    HostPool().ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int32_t target = reference.target(first + i);
        scores[static_cast<size_t>(first + i)] = q == nullptr
                                                     ? ScoreRow(p + i * vocab, vocab, target)
                                                     : ScoreRow(p + i * vocab, q + i * vocab, vocab, target);
      }
    });
  }
  return absl::OkStatus();
}

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
  const int64_t allowed = std::min(q.max_positions, r.max_positions);
  if (allowed > 0 && positions > allowed) {
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
      const bool holds_bos = tokenizer.bos_id() >= 0 &&
                             std::find(tokens.begin(), tokens.end(), tokenizer.bos_id()) != tokens.end();
      if (holds_bos) {
        prefixed_ = DropLeadingBos(plan_.windows);
        windows_ = &prefixed_;
      }
      SF_ASSIGN_OR_RETURN(reference_prefix_, ComputePrefix(reference_, tokens));
    }
    const int64_t max_tokens = MaxTokens(plan_.windows);
    const int64_t prefix_size = prefix ? prefix->size() : 0;
    SF_RETURN_IF_ERROR(CheckModels(quantized_, reference_, max_tokens + prefix_size));
    const KvPrefix* before = prefix ? &reference_prefix_ : nullptr;
    reference_arm_.emplace(reference_, before, max_tokens);
    if (&quantized_ != &reference_) quantized_arm_.emplace(quantized_, prefix, max_tokens);
    if (prefix != nullptr && options_.prefix_control) control_arm_.emplace(reference_, nullptr, max_tokens);
    if (options_.noise_floor) noise_arm_.emplace(reference_, before, max_tokens, &round_);
    return absl::OkStatus();
  }

  absl::Status RunWindow(size_t w) {
    const EvalWindow& window = (*windows_)[w];
    const int64_t vocab = reference_.graph().config.vocab;
    SF_RETURN_IF_ERROR(reference_arm_->Run(window));
    if (quantized_arm_) SF_RETURN_IF_ERROR(quantized_arm_->Run(window));
    scores_.emplace_back();
    SF_RETURN_IF_ERROR(ScoreWindow(*reference_arm_, quantized_arm_ ? &*quantized_arm_ : nullptr,
                                   window.num_scored(), vocab, scores_.back()));
    if (control_arm_) {
      SF_RETURN_IF_ERROR(control_arm_->Run(plan_.windows[w]));
      control_.emplace_back();
      SF_RETURN_IF_ERROR(
          ScoreWindow(*control_arm_, nullptr, plan_.windows[w].num_scored(), vocab, control_.back()));
    }
    if (noise_arm_) {
      SF_RETURN_IF_ERROR(noise_arm_->Run(window));
      noise_.emplace_back();
      SF_RETURN_IF_ERROR(
          ScoreWindow(*reference_arm_, &*noise_arm_, window.num_scored(), vocab, noise_.back()));
    }
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
      const absl::Span<const int32_t> tokens(window.tokens);
      bytes += static_cast<int64_t>(
          tokenizer.Decode(tokens.subspan(static_cast<size_t>(window.score_from))).size());
    }
    if (bytes > 0) {
      const double nats = std::log(result.ppl) * static_cast<double>(result.num_scored);
      result.bits_per_byte = nats / (std::log(2.0) * static_cast<double>(bytes));
    }
    result.seconds_reference = reference_arm_->seconds();
    result.seconds_quantized = quantized_arm_ ? quantized_arm_->seconds() : result.seconds_reference;
    return result;
  }

  const RuntimeModel &quantized_, &reference_;
  const EvalOptions& options_;
  EvalWindows plan_;
  std::vector<EvalWindow> prefixed_;
  std::vector<EvalWindow>* windows_ = nullptr;  // what the paired arms run
  KvPrefix reference_prefix_;
  RoundToBf16 round_;
  std::optional<Arm> reference_arm_, quantized_arm_, control_arm_, noise_arm_;
  std::vector<WindowScores> scores_, control_, noise_;
};

}  // namespace

absl::StatusOr<EvalResult> Evaluate(const RuntimeModel& quantized, const RuntimeModel& reference,
                                    const Tokenizer& tokenizer, const TokenStream& text,
                                    const EvalOptions& options) {
  return Evaluation(quantized, reference, options).Run(tokenizer, text);
}

}  // namespace spikefold
