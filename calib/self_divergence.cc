#include "calib/self_divergence.h"

#include <algorithm>
#include <utility>

#include "calib/scoring_arm.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

class Divergence : public SelfDivergence {
 public:
  explicit Divergence(KvPrefix prefix) : prefix_(std::move(prefix)) {}

  absl::Status Start(const RuntimeModel& model, const std::vector<std::vector<int32_t>>& windows) {
    int64_t longest = 0;
    for (const auto& window : windows) {
      const int64_t length = static_cast<int64_t>(window.size());
      if (length < 2) continue;
      windows_.push_back({.tokens = window, .score_from = std::max<int64_t>(1, length / 2)});
      longest = std::max(longest, length);
    }
    if (windows_.empty()) {
      return absl::InvalidArgumentError("divergence: no window of two tokens or more; scan longer text");
    }
    const KvPrefix* const prefix = prefix_.empty() ? nullptr : &prefix_;
    for (const EvalWindow& window : windows_) {
      before_.push_back(std::make_unique<ScoringArm>(model, prefix, longest, ForwardOptions{}));
      SF_RETURN_IF_ERROR(before_.back()->Run(window));
    }
    now_ = std::make_unique<ScoringArm>(model, prefix, longest);
    return absl::OkStatus();
  }

  absl::StatusOr<double> Measure() override {
    double sum = 0;
    int64_t rows = 0;
    for (size_t w = 0; w < windows_.size(); ++w) {
      SF_RETURN_IF_ERROR(now_->Run(windows_[w]));
      SF_ASSIGN_OR_RETURN(const WindowScores scores, ScoreWindow(*before_[w], now_.get()));
      for (const RowScore& row : scores) sum += row.kld;
      rows += static_cast<int64_t>(scores.size());
    }
    return std::max(0.0, sum / static_cast<double>(rows));
  }

 private:
  const KvPrefix prefix_;
  std::vector<EvalWindow> windows_;
  std::vector<std::unique_ptr<ScoringArm>> before_;  // a window each
  std::unique_ptr<ScoringArm> now_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SelfDivergence>> SelfDivergence::Create(
    const RuntimeModel& model, KvPrefix prefix, const std::vector<std::vector<int32_t>>& windows) {
  auto out = std::make_unique<Divergence>(std::move(prefix));
  SF_RETURN_IF_ERROR(out->Start(model, windows));
  return out;
}

}  // namespace spikefold
