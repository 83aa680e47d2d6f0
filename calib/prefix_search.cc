#include "calib/prefix_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "calib/scoring_arm.h"
#include "calib/site_scores.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr double kMaxPplRatio = 1.01;
constexpr double kScoreGain = 0.5;  // CushionCache's stopping rule
constexpr size_t kMaxOutlierTokens = 4;
constexpr int64_t kRepeatedText = 64;

struct Measured {
  double nll = 0, score = 0;
};

class Search {
 public:
  explicit Search(const PrefixSearchInput& input) : in_(input) {
    windows_ = MakeProbeWindows(in_.windows, in_.windows_lead_with_bos);
    behind_bos_ = DropLeadingBos(windows_);
  }

  absl::StatusOr<std::vector<PrefixCandidate>> Run() {
    SF_RETURN_IF_ERROR(MakeCandidates());
    const int64_t steps = static_cast<int64_t>(found_.size());
    for (size_t c = 0; c < found_.size(); ++c) {
      if (!Report(in_.progress, "trying prefixes", static_cast<int64_t>(c), steps)) {
        return absl::CancelledError(absl::StrCat("prefix search: stopped after ", c, " candidates"));
      }
      SF_ASSIGN_OR_RETURN(const Measured m, Measure(found_[c].tokens));
      Judge(m, found_[c]);
    }
    Report(in_.progress, "trying prefixes", steps, steps);
    Choose();
    return std::move(found_);
  }

 private:
  void Add(std::vector<int32_t> tokens) {
    for (const PrefixCandidate& candidate : found_) {
      if (candidate.tokens == tokens) return;
    }
    PrefixCandidate candidate;
    for (const int32_t token : tokens) candidate.text += in_.tokenizer.TokenText(token);
    candidate.tokens = std::move(tokens);
    found_.push_back(std::move(candidate));
  }

  // BOS, where no text begins with it again (see RepeatedScore); newline, "." and "," with BOS behind them;
  // outlier tokens with BOS. Without a BOS the delimiters stand behind each other.
  absl::Status MakeCandidates() {
    const int32_t bos = in_.tokenizer.bos_id();
    if (bos >= 0 && in_.windows_lead_with_bos) Add({bos});
    std::vector<int32_t> delimiters;
    for (const char* text : {"\n", ".", ","}) {
      SF_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, in_.tokenizer.Encode(text));
      if (ids.size() == 1) delimiters.push_back(ids.front());
    }
    for (size_t d = 0; d < delimiters.size(); ++d) {
      const int32_t last = bos >= 0 ? bos : delimiters[(d + 1) % delimiters.size()];
      Add({delimiters[d], last});
    }
    const size_t count = std::min({in_.outlier_tokens.size(), kMaxOutlierTokens,
                                   static_cast<size_t>(std::max<int64_t>(0, in_.outliers_per_window - 1))});
    if (count > 0) {
      std::vector<int32_t> tokens(in_.outlier_tokens.begin(),
                                  in_.outlier_tokens.begin() + static_cast<int64_t>(count));
      if (bos >= 0) tokens.push_back(bos);
      Add(std::move(tokens));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Measured> Measure(const std::vector<int32_t>& tokens) {
    SF_ASSIGN_OR_RETURN(const KvPrefix prefix, ComputePrefix(in_.model, tokens));
    const int32_t bos = in_.tokenizer.bos_id();
    const bool holds_bos = bos >= 0 && std::find(tokens.begin(), tokens.end(), bos) != tokens.end();
    const std::vector<EvalWindow>& windows = holds_bos ? behind_bos_ : windows_;
    RowPeakObserver peaks(in_.model.graph(), in_.model.pool());
    SF_ASSIGN_OR_RETURN(const double nll, MeanNll(in_.model, windows, &prefix, peaks, "", {}));
    Measured out{.nll = nll, .score = peaks.LargestScore(static_cast<int64_t>(windows[0].tokens.size()))};
    if (in_.windows_lead_with_bos && holds_bos) return out;  // never repeated: a text's own BOS goes
    SF_ASSIGN_OR_RETURN(const double repeated, RepeatedScore(tokens, prefix));
    out.score = std::max(out.score, repeated);
    return out;
  }

  // A text may begin with the prefix's own tokens. Behind one token the same token sees nothing but itself,
  // so that it spikes as if it stood first; behind two or more, at most one of which it equals, it need not.
  absl::StatusOr<double> RepeatedScore(const std::vector<int32_t>& tokens, const KvPrefix& prefix) {
    std::vector<int32_t> window = tokens;
    const std::vector<int32_t>& text = in_.windows.front();
    window.insert(window.end(), text.begin(),
                  text.begin() + std::min<int64_t>(kRepeatedText, static_cast<int64_t>(text.size())));
    RowPeakObserver peaks(in_.model.graph(), in_.model.pool());
    SF_RETURN_IF_ERROR(RunWindows(in_.model, {window}, &prefix, peaks, "searching for a prefix", {}));
    return peaks.LargestScore(static_cast<int64_t>(window.size()));
  }

  void Judge(const Measured& m, PrefixCandidate& candidate) const {
    candidate.ppl_ratio = std::exp(m.nll - in_.plain_nll);
    candidate.score = m.score;
    if (!(candidate.ppl_ratio <= kMaxPplRatio)) {
      candidate.reason =
          absl::StrFormat("perplexity ratio %.4f is above %.2f", candidate.ppl_ratio, kMaxPplRatio);
    } else if (m.score >= kUpperRow && m.score > kScoreGain * in_.plain_score) {
      candidate.reason =
          absl::StrFormat("largest site score %.4g behind it (%.4g without): neither below %.0f nor half",
                          m.score, in_.plain_score, kUpperRow);
    }
  }

  void Choose() {
    double lowest = std::numeric_limits<double>::infinity();
    for (const PrefixCandidate& candidate : found_) {
      if (candidate.reason.empty()) lowest = std::min(lowest, candidate.score);
    }
    PrefixCandidate* best = nullptr;
    for (PrefixCandidate& candidate : found_) {
      if (!candidate.reason.empty()) continue;
      // Where every prompt begins with BOS anyway, BOS alone changes nothing: only a much better one
      // displaces it.
      const bool exact = in_.windows_lead_with_bos && candidate.tokens.size() == 1;
      if (exact && lowest > kScoreGain * candidate.score) {
        best = &candidate;
        break;
      }
      if (candidate.score == lowest) best = &candidate;
    }
    for (PrefixCandidate& candidate : found_) {
      if (!candidate.reason.empty()) continue;
      candidate.chosen = &candidate == best;
      candidate.reason =
          absl::StrFormat("largest site score %.4g behind it, %.4g without%s", candidate.score,
                          in_.plain_score, candidate.chosen ? ": the best" : "; another is better");
    }
  }

  const PrefixSearchInput& in_;
  std::vector<EvalWindow> windows_, behind_bos_;
  std::vector<PrefixCandidate> found_;
};

}  // namespace

std::vector<EvalWindow> MakeProbeWindows(const Windows& windows, bool lead_with_bos) {
  std::vector<EvalWindow> out;
  for (const auto& tokens : windows) {
    out.push_back({.tokens = tokens, .score_from = lead_with_bos ? 2 : 1, .leads_with_bos = lead_with_bos});
  }
  return out;
}

absl::StatusOr<double> MeanNll(const RuntimeModel& model, const std::vector<EvalWindow>& windows,
                               const KvPrefix* prefix, Taps& taps, absl::string_view what,
                               const Progress& progress) {
  size_t longest = 0;
  for (const EvalWindow& window : windows) longest = std::max(longest, window.tokens.size());
  ScoringArm arm(model, prefix, static_cast<int64_t>(longest), {.taps = &taps});
  double sum = 0, count = 0;
  for (size_t w = 0; w < windows.size(); ++w) {
    if (!Report(progress, what, static_cast<int64_t>(w), static_cast<int64_t>(windows.size()))) {
      return absl::CancelledError(absl::StrCat(what, ": stopped after ", w, " windows"));
    }
    SF_RETURN_IF_ERROR(arm.Run(windows[w]));
    SF_ASSIGN_OR_RETURN(const WindowScores scores, ScoreWindow(arm, nullptr));
    for (const RowScore& score : scores) sum += score.nll;
    count += static_cast<double>(scores.size());
  }
  Report(progress, what, static_cast<int64_t>(windows.size()), static_cast<int64_t>(windows.size()));
  return count > 0 ? sum / count : 0;
}

absl::StatusOr<std::vector<PrefixCandidate>> SearchPrefix(const PrefixSearchInput& input) {
  return Search(input).Run();
}

}  // namespace spikefold
