#include "calib/oracle.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "calib/score_rows.h"
#include "calib/scoring_arm.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Rows of logits compared at once: those of the oracle come for a whole window.
absl::Status CompareRows(ScoringArm& arm, const std::vector<float>& expected, OracleResult& result) {
  constexpr int64_t kRows = 16;
  const int64_t vocab = arm.vocab(), scored = arm.window().num_scored();
  for (int64_t first = 0; first < scored; first += kRows) {
    const int64_t rows = std::min(kRows, scored - first);
    SF_ASSIGN_OR_RETURN(const float* q, arm.Block(first, rows));
    const float* p = expected.data() + first * vocab;
    for (int64_t i = 0; i < rows * vocab; ++i) {
      const double difference = std::abs(double{p[i]} - q[i]);
      result.logits_worst = std::max(
          result.logits_worst, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
      result.logits_range = std::max(result.logits_range, std::abs(double{p[i]}));
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t target = arm.window().tokens[static_cast<size_t>(arm.window().score_from + first + i)];
      const RowScore score = ScoreRow(p + i * vocab, q + i * vocab, vocab, target);
      result.kld_mean += score.kld;
      result.kld_max = std::max(result.kld_max, score.kld);
      result.same_top -= score.same_top ? 0 : 1;
    }
  }
  result.num_scored += scored;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OracleResult> CompareWithOracle(const RuntimeModel& model, TorchModel& oracle,
                                               const std::vector<EvalWindow>& windows,
                                               const Progress& progress) {
  OracleResult result;
  int64_t longest = 0;
  for (const EvalWindow& w : windows) longest = std::max(longest, static_cast<int64_t>(w.tokens.size()));
  ScoringArm arm(model, model.prefix(), longest, {}, model.kv());
  const int64_t count = static_cast<int64_t>(windows.size());
  std::vector<float> expected;
  result.same_top = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!Report(progress, "comparing with LibTorch", i, count)) {
      return absl::CancelledError(absl::StrCat("oracle: stopped after ", i, " of ", count, " windows"));
    }
    const EvalWindow& window = windows[static_cast<size_t>(i)];
    SF_RETURN_IF_ERROR(arm.Run(window));
    expected.resize(static_cast<size_t>(window.num_scored() * arm.vocab()));
    // The last token predicts nothing that is scored.
    const absl::Span<const int32_t> tokens(window.tokens.data(), window.tokens.size() - 1);
    const auto start = std::chrono::steady_clock::now();
    SF_RETURN_IF_ERROR(oracle.Logits(tokens, window.score_from - 1, absl::MakeSpan(expected)));
    result.seconds_oracle += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    SF_RETURN_IF_ERROR(CompareRows(arm, expected, result));
    result.num_tokens += static_cast<int64_t>(window.tokens.size());
  }
  result.num_windows = count;
  result.seconds = arm.seconds();
  const double scored = static_cast<double>(std::max<int64_t>(result.num_scored, 1));
  result.kld_mean /= scored;
  result.same_top = 1 + result.same_top / scored;
  return result;
}

}  // namespace spikefold
