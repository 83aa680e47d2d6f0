#include "calib/eval_summary.h"

#include <cmath>

#include "calib/paired_stats.h"

namespace spikefold {
namespace {

constexpr size_t kPositionBuckets = 8;

// All rows' values of one quantity.
template <typename F>
std::vector<double> Gather(const std::vector<WindowScores>& windows, const F& value) {
  std::vector<double> out;
  for (const WindowScores& window : windows) {
    for (const RowScore& score : window) out.push_back(value(score));
  }
  return out;
}

double RootMeanSquare(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v * v;
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

void RatioErrors(const std::vector<WindowScores>& windows, EvalResult& result) {
  const MeanAndError d =
      MeanWithError(Gather(windows, [](const RowScore& s) { return s.nll - s.nll_reference; }));
  result.ln_ratio = d.mean;
  result.ln_ratio_se = d.se;
  for (const WindowScores& window : windows) {
    double sum = 0;
    for (const RowScore& score : window) sum += score.nll - score.nll_reference;
    result.window_ln_ratio.push_back(window.empty() ? 0 : sum / static_cast<double>(window.size()));
  }
  result.ln_ratio_se_window = MeanWithError(result.window_ln_ratio).se;
  if (d.se > 0 && windows.size() > 1) {
    result.design_effect = std::pow(result.ln_ratio_se_window / d.se, 2);
  }
  const double se =
      static_cast<int64_t>(windows.size()) >= kMinWindowsForError ? result.ln_ratio_se_window : d.se;
  result.ppl_ratio = std::exp(d.mean);
  result.ppl_ratio_se = result.ppl_ratio * se;
}

void PositionBuckets(const std::vector<WindowScores>& windows, EvalResult& result) {
  std::vector<double> sum(kPositionBuckets, 0), count(kPositionBuckets, 0);
  for (const WindowScores& window : windows) {
    for (size_t i = 0; i < window.size(); ++i) {
      const size_t bucket = i * kPositionBuckets / window.size();
      sum[bucket] += window[i].kld;
      count[bucket] += 1;
    }
  }
  for (size_t b = 0; b < kPositionBuckets; ++b) {
    result.kld_by_position.push_back(count[b] > 0 ? sum[b] / count[b] : 0);
  }
}

}  // namespace

void Summarize(const std::vector<WindowScores>& windows, EvalResult& result) {
  const MeanAndError nll = MeanWithError(Gather(windows, [](const RowScore& s) { return s.nll; }));
  const MeanAndError reference =
      MeanWithError(Gather(windows, [](const RowScore& s) { return s.nll_reference; }));
  result.ppl = std::exp(nll.mean);
  result.ppl_se = result.ppl * nll.se;
  result.ppl_reference = std::exp(reference.mean);
  result.ppl_reference_se = result.ppl_reference * reference.se;
  RatioErrors(windows, result);

  std::vector<double> kld = Gather(windows, [](const RowScore& s) { return s.kld; });
  const MeanAndError kld_mean = MeanWithError(kld);
  result.num_scored = static_cast<int64_t>(kld.size());
  result.kld_mean = kld_mean.mean;
  result.kld_se = kld_mean.se;
  result.kld_llamacpp = MeanWithError(Gather(windows, [](const RowScore& s) { return s.kld_llamacpp; })).mean;
  result.kld = MakePercentiles(std::move(kld));
  PositionBuckets(windows, result);

  const double n = static_cast<double>(result.num_scored);
  const auto mean = [&](const auto& value) { return MeanWithError(Gather(windows, value)).mean; };
  result.same_top = mean([](const RowScore& s) { return s.same_top ? 1.0 : 0.0; });
  result.same_top_se = n > 0 ? std::sqrt(result.same_top * (1 - result.same_top) / n) : 0;
  result.nonfinite_share = mean([](const RowScore& s) { return s.finite ? 0.0 : 1.0; });
  const std::vector<double> delta =
      Gather(windows, [](const RowScore& s) { return std::exp(-s.nll) - std::exp(-s.nll_reference); });
  result.delta_p_mean = MeanWithError(delta).mean;
  result.delta_p_rms = RootMeanSquare(delta);
}

}  // namespace spikefold
