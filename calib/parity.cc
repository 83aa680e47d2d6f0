#include "calib/parity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "calib/scoring_arm.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "kernels/outlier_tail.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"

namespace spikefold {
namespace {

constexpr int64_t kBlockRows = 64;  // of logits: 64 rows of a 262,144-word head are 64 MiB

// The inputs of one side's linears and their outputs.
class Side {
 public:
  explicit Side(const RuntimeModel& model) : model_(model) {}

  absl::Status Fill(const Site& site, const float* rows, int64_t num_rows) {
    Ops& ops = model_.ops();
    if (x_ == nullptr || x_->floats().width() != site.k) x_ = ops.NewActivation(site.k);
    SF_RETURN_IF_ERROR(ops.Reserve(*x_, num_rows));
    SF_RETURN_IF_ERROR(ops.Write(rows, num_rows, x_->floats()));
    x_->form = &model_.form(site.id);
    x_->rows = num_rows;
    return ops.Reform(*x_);
  }
  absl::StatusOr<const std::vector<float>*> Multiply(int node) {
    Ops& ops = model_.ops();
    const LinearWeights* w = model_.linear(node);
    const auto buffer = ops.NewBuffer(w->n);
    SF_RETURN_IF_ERROR(ops.Reserve(*buffer, x_->rows));
    Buffer* const out = buffer.get();
    SF_RETURN_IF_ERROR(ops.Linears(*x_, {&w, 1}, {&out, 1}));
    y_.resize(static_cast<size_t>(x_->rows * w->n));
    SF_RETURN_IF_ERROR(ops.Read(*buffer, x_->rows, y_.data()));
    return &y_;
  }

 private:
  const RuntimeModel& model_;
  std::unique_ptr<Activation> x_;
  std::vector<float> y_;
};

// What outputs may differ by: nothing, but where bf16 columns are added. A tensor core adds those in an order
// of its own, within TailBound() of the terms' sizes. Empty: nothing.
std::vector<double> Tolerance(const ActivationForm& form, const LinearWeights& w, const float* rows,
                              const std::vector<float>& outputs) {
  const size_t r = form.kept.size();
  if (r == 0 || w.kept_weight.empty()) return {};
  const size_t n = static_cast<size_t>(w.n), k = static_cast<size_t>(w.k);
  const auto x = [&](size_t output, int32_t column) {
    return double{rows[output / n * k + static_cast<size_t>(column)]};
  };
  // The integer sum is no larger than the output and all that was added to it.
  std::vector<double> size(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    size[i] = std::abs(double{outputs[i]});
    if (!w.bias.empty()) size[i] += 2 * std::abs(double{w.bias[i % n]});
    for (size_t c = 0; c < r; ++c) {
      size[i] += 2 * std::abs(x(i, form.kept[c]) * double{Bf16ToFloat(w.kept_weight[i % n * r + c])});
    }
  }
  std::vector<int64_t> more(n, w.bias.empty() ? 0 : 1);  // of a channel
  for (size_t s = 0; s < w.super_row.size(); ++s) {
    const size_t channel = static_cast<size_t>(w.super_row[s]);
    const int32_t column = form.super_columns[static_cast<size_t>(w.super_slot[s])];
    ++more[channel];
    for (size_t i = channel; i < outputs.size(); i += n) {
      size[i] += 2 * std::abs(x(i, column) * double{w.super_value[s]});
    }
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    size[i] *= kernels::TailBound(static_cast<int64_t>(r), more[i % n]);
  }
  return size;
}

void Compare(const std::string& name, const std::vector<float>& actual, const std::vector<float>& expected,
             const std::vector<double>& tolerance, LinearParity& parity) {
  double squares = 0, largest = 0;
  int64_t different = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    squares += double{expected[i]} * expected[i];
    if (std::bit_cast<uint32_t>(actual[i]) == std::bit_cast<uint32_t>(expected[i])) continue;
    const double difference = std::abs(double{actual[i]} - expected[i]);
    if (!tolerance.empty() && difference <= tolerance[i]) {
      ++parity.num_rounded;
      continue;
    }
    ++different;
    largest = difference >= 0 ? std::max(largest, difference) : std::numeric_limits<double>::infinity();
  }
  parity.num_outputs += static_cast<int64_t>(expected.size());
  parity.num_different += different;
  if (different == 0) return;
  const double worst = largest / std::sqrt(squares / static_cast<double>(expected.size()) + 1e-300);
  if (worst <= parity.worst && !parity.worst_linear.empty()) return;
  parity.worst = worst;
  parity.worst_linear = name;
}

// Watches the host's run and repeats each site's linears on both sides.
class SiteComparison : public Taps {
 public:
  SiteComparison(const RuntimeModel& device, const RuntimeModel& host, ParityResult& result)
      : model_(host), device_(device), host_(host), result_(result) {}

  bool Wants(int layer, ValueKind value) const override { return FindSite(layer, value) != nullptr; }
  void OnRows(const TapRows& rows) override {
    if (status_.ok()) status_ = Check(*FindSite(rows.layer, rows.value), rows);
  }
  absl::Status status() const { return status_; }

 private:
  const Site* FindSite(int layer, ValueKind value) const {
    for (const Site& site : model_.graph().sites) {
      if (site.layer == layer && site.value == value) return &site;
    }
    return nullptr;
  }

  absl::Status Check(const Site& site, const TapRows& rows) {
    // A head's rows come as they leave the norm; the layers' are rotated already, as Reform expects them.
    const int64_t num_rows = site.layer < 0 ? std::min(rows.num_rows, kBlockRows) : rows.num_rows;
    SF_RETURN_IF_ERROR(device_.Fill(site, rows.data, num_rows));
    SF_RETURN_IF_ERROR(host_.Fill(site, rows.data, num_rows));
    for (const int node : site.linears) {
      const LinearWeights& w = *model_.linear(node);
      const bool integer = w.kind != LinearWeights::Kind::kF32 && !model_.form(site.id).format.is_float();
      SF_ASSIGN_OR_RETURN(const std::vector<float>* actual, device_.Multiply(node));
      SF_ASSIGN_OR_RETURN(const std::vector<float>* expected, host_.Multiply(node));
      Compare(model_.graph().nodes[static_cast<size_t>(node)].module, *actual, *expected,
              Tolerance(model_.form(site.id), w, rows.data, *expected),
              integer ? result_.integer : result_.floating);
    }
    return absl::OkStatus();
  }

  const RuntimeModel& model_;
  Side device_, host_;
  ParityResult& result_;
  absl::Status status_;
};

// Logits of the scored rows of both runs.
absl::Status CompareLogits(ScoringArm& device, ScoringArm& host, std::vector<RowScore>& scores,
                           ParityResult& result) {
  const EvalWindow& window = host.window();
  const int64_t vocab = host.vocab();
  for (int64_t first = 0; first < window.num_scored(); first += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, window.num_scored() - first);
    SF_ASSIGN_OR_RETURN(const float* p, host.Block(first, rows));
    SF_ASSIGN_OR_RETURN(const float* q, device.Block(first, rows));
    for (int64_t i = 0; i < rows * vocab; ++i) {
      const double difference = std::abs(double{p[i]} - q[i]);
      result.logits_worst = std::max(
          result.logits_worst, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t target = window.tokens[static_cast<size_t>(window.score_from + first + i)];
      scores.push_back(ScoreRow(p + i * vocab, q + i * vocab, vocab, target));
    }
  }
  return absl::OkStatus();
}

void Summarize(const std::vector<RowScore>& scores, ParityResult& result) {
  double same = 0;
  for (const RowScore& score : scores) {
    result.kld_mean += score.kld / static_cast<double>(scores.size());
    result.kld_max = std::max(result.kld_max, score.kld);
    same += score.same_top ? 1 : 0;
  }
  if (!scores.empty()) result.same_top = same / static_cast<double>(scores.size());
}

}  // namespace

EvalWindow BeginningOf(EvalWindow window, int64_t tokens) {
  const int64_t count =
      std::min<int64_t>(std::max<int64_t>(tokens, 2), static_cast<int64_t>(window.tokens.size()));
  window.tokens.resize(static_cast<size_t>(count));
  window.score_from = std::min<int64_t>(window.score_from, 1);
  return window;
}

absl::StatusOr<ParityResult> CompareBackends(const RuntimeModel& device, const RuntimeModel& host,
                                             const std::vector<EvalWindow>& windows,
                                             const Progress& progress) {
  ParityResult result;
  int64_t longest = 0;
  for (const EvalWindow& w : windows) longest = std::max(longest, static_cast<int64_t>(w.tokens.size()));
  SiteComparison sites(device, host, result);
  ScoringArm host_arm(host, host.prefix(), longest, {}, host.kv()),
      device_arm(device, device.prefix(), longest, {}, device.kv());
  ScoringArm watched(host, host.prefix(), longest, {.taps = &sites}, host.kv());
  std::vector<RowScore> scores;
  const int64_t count = static_cast<int64_t>(windows.size());
  for (int64_t w = 0; w < count; ++w) {
    if (!Report(progress, "comparing", w, count)) {
      return absl::CancelledError(absl::StrCat("parity: stopped after ", w, " of ", count, " windows"));
    }
    const EvalWindow& window = windows[static_cast<size_t>(w)];
    SF_RETURN_IF_ERROR(watched.Run(window));
    SF_RETURN_IF_ERROR(sites.status());
    SF_RETURN_IF_ERROR(host_arm.Run(window));
    SF_RETURN_IF_ERROR(device_arm.Run(window));
    SF_RETURN_IF_ERROR(CompareLogits(device_arm, host_arm, scores, result));
    result.num_tokens += static_cast<int64_t>(window.tokens.size());
  }
  Report(progress, "comparing", count, count);
  result.num_windows = count;
  result.seconds_device = device_arm.seconds();
  result.seconds_host = host_arm.seconds();
  Summarize(scores, result);
  return result;
}

}  // namespace spikefold
