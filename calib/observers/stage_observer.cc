#include "calib/observers/stage_observer.h"

#include <algorithm>
#include <cmath>

namespace spikefold {

StageObserver::StageObserver(const StageShape& stage, double plateau, std::vector<float> down_up,
                             std::vector<float> down_down, int64_t num_layers, int64_t hidden)
    : stage_(stage), threshold_(plateau * kSpikeRowShare), removed_(stage.step_down < num_layers) {
  const size_t d = static_cast<size_t>(hidden);
  peak_.assign(d, 0);
  spike_sum_ = ordinary_sum_ = direction_ = peak_;
  up_.row = std::move(down_up);
  down_.row = std::move(down_down);
  up_.sum.unit.assign(up_.row.size(), 0);
  down_.sum.unit.assign(down_.row.size(), 0);
}

bool StageObserver::Wants(int layer, ValueKind value) const {
  if (value == ValueKind::kResidual) {
    return layer == stage_.step_up || layer == stage_.peak_layer ||
           (removed_ && layer == stage_.step_down - 1) || (removed_ && layer == stage_.step_down);
  }
  const bool branch =
      value == ValueKind::kDownIn || value == ValueKind::kFfnOut || value == ValueKind::kAttnOut;
  return branch && (layer == stage_.step_up || (removed_ && layer == stage_.step_down));
}

bool StageObserver::IsSpike(float height) const {
  return static_cast<double>(std::fabs(height)) > threshold_;
}

std::vector<float> StageObserver::Heights(const TapRows& rows) const {
  std::vector<float> out(static_cast<size_t>(rows.num_rows));
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    out[static_cast<size_t>(t)] = rows.data[t * rows.width + stage_.leader];
  }
  return out;
}

void StageObserver::OnRows(const TapRows& rows) {
  if (rows.value != ValueKind::kResidual) {
    if (rows.layer == stage_.step_up) Keep(rows, up_);
    if (removed_ && rows.layer == stage_.step_down) Keep(rows, down_);
    return;
  }
  if (rows.layer == stage_.step_up) AddParts(Heights(rows), up_);
  if (rows.layer == stage_.peak_layer) AddPeakRows(rows);
  if (removed_ && rows.layer == stage_.step_down - 1) heights_before_ = Heights(rows);
  if (removed_ && rows.layer == stage_.step_down) AddParts(heights_before_, down_);
}

void StageObserver::Keep(const TapRows& rows, Step& step) {
  if (rows.value == ValueKind::kDownIn) {
    step.down_in.assign(rows.data, rows.data + rows.num_rows * rows.width);
  } else {
    (rows.value == ValueKind::kFfnOut ? step.ffn : step.attention) = Heights(rows);
  }
}

void StageObserver::AddParts(const std::vector<float>& height, Step& step) {
  const size_t f = step.row.size();
  for (size_t t = 0; t < height.size(); ++t) {
    if (!IsSpike(height[t])) continue;
    const double sign = height[t] < 0 ? -1 : 1;
    const float* a = step.down_in.data() + t * f;
    for (size_t i = 0; i < f; ++i) {
      step.sum.unit[i] += sign * static_cast<double>(a[i]) * static_cast<double>(step.row[i]);
    }
    step.sum.ffn += sign * static_cast<double>(step.ffn[t]);
    step.sum.attention += sign * static_cast<double>(step.attention[t]);
    ++step.sum.rows;
  }
}

StepParts StageObserver::Mean(const Step& step) {
  StepParts mean = step.sum;
  const double n = std::max<double>(1, static_cast<double>(mean.rows));
  for (double& v : mean.unit) v /= n;
  mean.ffn /= n;
  mean.attention /= n;
  return mean;
}

void StageObserver::AddPeakRows(const TapRows& rows) {
  for (int64_t t = 0; t < rows.num_rows; ++t) {
    const float* h = rows.data + t * rows.width;
    const bool spike = IsSpike(h[stage_.leader]);
    ++(spike ? spike_rows_ : ordinary_rows_);
    double squares = 0;
    for (int64_t c = 0; c < rows.width; ++c) {
      const double v = std::fabs(static_cast<double>(h[c]));
      (spike ? spike_sum_ : ordinary_sum_)[static_cast<size_t>(c)] += v;
      if (spike) peak_[static_cast<size_t>(c)] = std::max(peak_[static_cast<size_t>(c)], v);
      squares += v * v;
    }
    if (!spike) continue;
    for (int64_t c = 0; c < rows.width; ++c) {
      direction_[static_cast<size_t>(c)] += static_cast<double>(h[c]) / std::sqrt(squares);
    }
  }
}

double StageObserver::near_constancy() const {
  // The mean of u.m over unit rows u, with m the unit vector along their sum, is |sum u| / n.
  double squares = 0;
  for (const double v : direction_) squares += v * v;
  return spike_rows_ > 0 ? std::sqrt(squares) / static_cast<double>(spike_rows_) : 0;
}

std::vector<double> StageObserver::mean_spike() const {
  std::vector<double> out = spike_sum_;
  for (double& v : out) v /= std::max<double>(1, static_cast<double>(spike_rows_));
  return out;
}
std::vector<double> StageObserver::mean_ordinary() const {
  std::vector<double> out = ordinary_sum_;
  for (double& v : out) v /= std::max<double>(1, static_cast<double>(ordinary_rows_));
  return out;
}

}  // namespace spikefold
