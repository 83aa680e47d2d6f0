#include "calib/self_divergence.h"

#include <algorithm>
#include <utility>

#include "calib/scoring_arm.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Keeps what feeds the head.
class FinalTap : public Taps {
 public:
  bool Wants(int layer, ValueKind value) const override { return layer < 0 && value == ValueKind::kFinal; }
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& rows) override {
    hidden.assign(rows.data, rows.data + rows.num_rows * rows.width);
  }
  std::vector<float> hidden;
};

class Divergence : public SelfDivergence {
 public:
  Divergence(const RuntimeModel& model, KvPrefix prefix) : model_(model), prefix_(std::move(prefix)) {}

  absl::Status Start(const std::vector<std::vector<int32_t>>& windows) {
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
      before_.push_back(std::make_unique<ScoringArm>(model_, prefix, longest, ForwardOptions{}));
      SF_RETURN_IF_ERROR(before_.back()->Run(window));
    }
    now_ = std::make_unique<ScoringArm>(model_, prefix, longest);
    return absl::OkStatus();
  }

  absl::StatusOr<double> Measure(Interventions* edits, int first_layer) override {
    if (first_layer > 0 && starts_.empty()) SF_RETURN_IF_ERROR(KeepLayers());
    now_->set_interventions(edits);
    double sum = 0;
    int64_t rows = 0;
    for (size_t w = 0; w < windows_.size(); ++w) {
      SF_RETURN_IF_ERROR(first_layer > 0 ? RunFrom(w, first_layer, edits) : now_->Run(windows_[w]));
      SF_ASSIGN_OR_RETURN(const WindowScores scores, ScoreWindow(*before_[w], now_.get()));
      for (const RowScore& row : scores) sum += row.kld;
      rows += static_cast<int64_t>(scores.size());
    }
    return std::max(0.0, sum / static_cast<double>(rows));
  }

 private:
  int FirstNode(int layer) const {
    const auto& nodes = model_.graph().nodes;
    const auto node =
        std::find_if(nodes.begin(), nodes.end(), [&](const Node& n) { return n.layer == layer; });
    return static_cast<int>(node - nodes.begin());
  }

  // The residual before each layer.
  absl::Status KeepLayers() {
    const int num_layers = static_cast<int>(model_.graph().config.num_layers);
    size_t longest = 0;
    for (const EvalWindow& window : windows_) longest = std::max(longest, window.tokens.size());
    cache_ = std::make_unique<KvCache>(model_.graph().config, static_cast<int64_t>(longest) + prefix_.size(),
                                       prefix_.empty() ? nullptr : &prefix_);
    starts_.resize(windows_.size());
    for (size_t w = 0; w < windows_.size(); ++w) {
      std::vector<float> rows(windows_[w].tokens.size() * static_cast<size_t>(model_.graph().config.hidden));
      int begin = 0;
      for (int layer = 0; layer < num_layers; ++layer) {
        const int end = FirstNode(layer);
        if (end > begin) {
          SF_RETURN_IF_ERROR(
              ForwardNodes(model_, {begin, end}, windows_[w].tokens, *cache_, absl::MakeSpan(rows), {}));
        }
        starts_[w].push_back(rows);
        begin = end;
      }
    }
    return absl::OkStatus();
  }

  absl::Status RunFrom(size_t w, int layer, Interventions* edits) {
    std::vector<float> rows = starts_[w][static_cast<size_t>(layer)];
    FinalTap tap;
    const NodeRange range = {FirstNode(layer), static_cast<int>(model_.graph().nodes.size())};
    SF_RETURN_IF_ERROR(ForwardNodes(model_, range, windows_[w].tokens, *cache_, absl::MakeSpan(rows),
                                    {.taps = &tap, .interventions = edits}));
    now_->Take(windows_[w], tap.hidden);
    return absl::OkStatus();
  }

  const RuntimeModel& model_;
  const KvPrefix prefix_;
  std::vector<EvalWindow> windows_;
  std::vector<std::unique_ptr<ScoringArm>> before_;  // a window each
  std::unique_ptr<ScoringArm> now_;
  std::unique_ptr<KvCache> cache_;                       // of starts_
  std::vector<std::vector<std::vector<float>>> starts_;  // [windows][num_layers][tokens, d]
};

}  // namespace

absl::StatusOr<std::unique_ptr<SelfDivergence>> SelfDivergence::Create(
    const RuntimeModel& model, KvPrefix prefix, const std::vector<std::vector<int32_t>>& windows) {
  auto out = std::make_unique<Divergence>(model, std::move(prefix));
  SF_RETURN_IF_ERROR(out->Start(windows));
  return out;
}

}  // namespace spikefold
