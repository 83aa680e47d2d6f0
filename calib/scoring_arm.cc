#include "calib/scoring_arm.h"

#include <algorithm>
#include <chrono>

#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr int64_t kLogitsInBlock = int64_t{1} << 23;  // 32 MiB of float32 a model
constexpr int64_t kMaxBlockRows = 128, kMinBlockRows = 16;
// Of a backend that keeps them: 64 MiB a model.
constexpr int64_t kKeptLogits = int64_t{1} << 24, kMaxKeptRows = 512;

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

ScoringArm::ScoringArm(const RuntimeModel& model, const KvPrefix* prefix, int64_t max_tokens,
                       const ForwardOptions& options, const KvOptions& kv, HiddenMemory* memory)
    : model_(model),
      options_(options),
      cache_(model.graph().config, (prefix ? prefix->size() : 0) + max_tokens, prefix, kv),
      prefix_tokens_(prefix ? prefix->tokens : std::vector<int32_t>()),
      memory_(memory),
      hidden_(DType::kF32, {max_tokens, model.graph().config.hidden}) {}

absl::Status ScoringArm::Run(const EvalWindow& window) {
  const auto start = Clock::now();
  window_ = &window;
  const size_t d = static_cast<size_t>(model_.graph().config.hidden);
  const absl::Span<float> rows = hidden_.as<float>().subspan(0, window.tokens.size() * d);
  if (const float* known = memory_ ? memory_->Find(prefix_tokens_, window.tokens) : nullptr) {
    std::copy(known, known + rows.size(), rows.begin());
    remembered_ = true;
  } else {
    cache_.Reset();
    SF_RETURN_IF_ERROR(Forward(model_, window.tokens, cache_, rows, options_));
    if (memory_ != nullptr) memory_->Remember(prefix_tokens_, window.tokens, rows);
  }
  seconds_ += SecondsSince(start);
  return absl::OkStatus();
}

void ScoringArm::Take(const EvalWindow& window, absl::Span<const float> hidden) {
  window_ = &window;
  std::copy(hidden.begin(), hidden.end(), hidden_.as<float>().begin());
}

absl::StatusOr<const float*> ScoringArm::Block(int64_t first, int64_t rows) {
  const auto start = Clock::now();
  const int64_t row = window_->score_from - 1 + first;
  HiddenMemory* const memory = keeps_logits_ ? memory_ : nullptr;
  if (memory != nullptr) {
    const float* known = memory->FindLogits(prefix_tokens_, window_->tokens, row);
    if (known != nullptr) {
      remembered_ = true;
      return known;
    }
  }
  logits_.resize(static_cast<size_t>(rows * vocab()));
  SF_RETURN_IF_ERROR(Logits(model_, HeadRows(first, rows), absl::MakeSpan(logits_)));
  seconds_ += SecondsSince(start);
  if (memory != nullptr) memory->RememberLogits(prefix_tokens_, window_->tokens, row, logits_);
  return logits_.data();
}

absl::Status ScoringArm::Keep(LogitsOf of, int64_t first, int64_t rows) {
  const auto start = Clock::now();
  SF_RETURN_IF_ERROR(KeepLogits(model_, of, HeadRows(first, rows)));
  seconds_ += SecondsSince(start);
  return absl::OkStatus();
}

absl::Span<const float> ScoringArm::HeadRows(int64_t first, int64_t rows) const {
  const size_t d = static_cast<size_t>(model_.graph().config.hidden);
  const size_t row = static_cast<size_t>(window_->score_from - 1 + first);
  return hidden_.as<float>().subspan(row * d, static_cast<size_t>(rows) * d);
}

namespace {

// By backends that compare logits where they are. Unimplemented: these do not.
absl::Status ScoreWhereMade(ScoringArm& reference, ScoringArm* quantized, WindowScores& scores) {
  const EvalWindow& window = reference.window();
  const int64_t count = static_cast<int64_t>(scores.size());
  const int64_t block = std::clamp(kKeptLogits / reference.vocab(), kMinBlockRows, kMaxKeptRows);
  std::vector<Ops::TargetRow> compared(static_cast<size_t>(std::min(block, count)));
  for (int64_t first = 0; first < count; first += block) {
    const int64_t rows = std::min(block, count - first);
    SF_RETURN_IF_ERROR(reference.Keep(LogitsOf::kReference, first, rows));
    if (quantized != nullptr) SF_RETURN_IF_ERROR(quantized->Keep(LogitsOf::kOther, first, rows));
    SF_RETURN_IF_ERROR(reference.ops().CompareLogits(
        rows, quantized == nullptr ? nullptr : &quantized->ops(),
        &window.tokens[static_cast<size_t>(window.score_from + first)], compared.data()));
    std::transform(compared.begin(), compared.begin() + rows, scores.begin() + first, ScoreOf);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WindowScores> ScoreWindow(ScoringArm& reference, ScoringArm* quantized) {
  const EvalWindow& window = reference.window();
  const int64_t vocab = reference.vocab();
  const int64_t block = std::clamp(kLogitsInBlock / vocab, kMinBlockRows, kMaxBlockRows);
  WindowScores scores(static_cast<size_t>(window.num_scored()));
  const absl::Status made = ScoreWhereMade(reference, quantized, scores);
  if (!absl::IsUnimplemented(made)) {
    SF_RETURN_IF_ERROR(made);
    return scores;
  }
  for (int64_t first = 0; first < window.num_scored(); first += block) {
    const int64_t rows = std::min(block, window.num_scored() - first);
    SF_ASSIGN_OR_RETURN(const float* p, reference.Block(first, rows));
    const float* q = nullptr;
    if (quantized != nullptr) {
      SF_ASSIGN_OR_RETURN(q, quantized->Block(first, rows));
    }
    reference.pool().ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int32_t target = window.tokens[static_cast<size_t>(window.score_from + first + i)];
        scores[static_cast<size_t>(first + i)] = q == nullptr
                                                     ? ScoreRow(p + i * vocab, vocab, target)
                                                     : ScoreRow(p + i * vocab, q + i * vocab, vocab, target);
      }
    });
  }
  return scores;
}

}  // namespace spikefold
