#include "quant/rounding/trellis_panel.h"

#include <algorithm>
#include <cmath>

#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"

namespace spikefold {
namespace {

namespace f32 = kernels::matmul_f32_f32_f32;
namespace trellis = kernels::trellis_s8_f32;

constexpr int64_t kLanes = f32::kPanel;
constexpr int64_t kBlock = 32;            // columns whose feedback to each other is added at once
constexpr float kSmallestScale = 1e-30f;  // of a row of zeros
static_assert(trellis::kMaxRows == kTrellisSegment && trellis::kStates == kTrellisStates);

size_t Size(int64_t n) { return static_cast<size_t>(n); }

}  // namespace

TrellisPanel::TrellisPanel(const RoundingInput& input, const HessianFactor& factor, const WeightGrid& grid,
                           ThreadPool& pool)
    : input_(input),
      factor_(factor),
      grid_(grid),
      pool_(pool),
      k_(input.k),
      strips_(Size(kRows / kLanes)),
      codes_(Size(k_ * kRows)),
      levels_(TrellisLevels(), TrellisLevels() + kTrellisStates),
      scale_(Size(kRows)),
      target_(Size(kRows)),
      states_(Size(kRows)),
      error_(Size(kRows)),
      power_(Size(kRows)) {}

void TrellisPanel::Load(int64_t first_row) {
  first_row_ = first_row;
  num_rows_ = std::min(kRows, input_.n - first_row);
  num_strips_ = (num_rows_ + kLanes - 1) / kLanes;
  std::fill(scale_.begin(), scale_.end(), kSmallestScale);
  for (int64_t s = 0; s < num_strips_; ++s) {
    Strip& strip = strips_[Size(s)];
    for (auto* part : {&strip.w, &strip.error, &strip.product}) {
      part->assign(Size(k_ * kLanes), 0.0f);  // lanes beyond the last row stay zeros
    }
    strip.ordered.assign(factor_.order.size() * Size(kLanes), 0.0f);
    strip.block.assign(Size(kBlock * kLanes), 0.0f);
  }
  for (int64_t row = 0; row < num_rows_; ++row) {
    const float* w = input_.w.data() + (first_row + row) * k_;
    float* to = strips_[Size(row / kLanes)].w.data() + row % kLanes;
    double sum = 0;
    for (int64_t c = 0; c < k_; ++c) {
      to[c * kLanes] = w[c];
      sum += static_cast<double>(w[c]) * static_cast<double>(w[c]);
    }
    const double spread = std::sqrt(sum / static_cast<double>(k_));
    scale_[Size(row)] = std::max(kSmallestScale, static_cast<float>(spread * TrellisScale(grid_.bits)));
  }
}

absl::Status TrellisPanel::Encode(int64_t column) {
  SF_RETURN_IF_ERROR(trellis::Run({.bits = grid_.bits,
                                   .n = num_rows_,
                                   .levels = levels_.data(),
                                   .target = target_.data(),
                                   .scale = scale_.data(),
                                   .states = states_.data()},
                                  scratch_));
  const int mask = (1 << grid_.bits) - 1;
  for (int64_t row = 0; row < num_rows_; ++row) {
    Strip& strip = strips_[Size(row / kLanes)];
    const size_t at = Size(column * kLanes + row % kLanes);
    const uint16_t state = states_[Size(row)];
    codes_[Size(column * kRows + row)] = static_cast<uint8_t>(state & mask);
    strip.error[at] = strip.w[at] - scale_[Size(row)] * levels_[state];
  }
  return absl::OkStatus();
}

absl::Status TrellisPanel::RoundAll() {
  const int64_t m = static_cast<int64_t>(factor_.order.size());
  for (int64_t first = 0; first < m; first += kBlock) {
    SF_RETURN_IF_ERROR(RoundBlock(first, std::min(kBlock, m - first)));
  }
  return absl::OkStatus();
}

absl::Status TrellisPanel::RoundBlock(int64_t first, int64_t count) {
  const int64_t m = static_cast<int64_t>(factor_.order.size());
  const float* feedback = factor_.is_diagonal() ? nullptr : factor_.feedback.as<float>().data();
  for (int64_t s = 0; s < num_strips_; ++s) {
    Strip& strip = strips_[Size(s)];
    std::fill(strip.block.begin(), strip.block.end(), 0.0f);
    if (first == 0 || feedback == nullptr) continue;
    SF_RETURN_IF_ERROR(f32::Run({.m = count,
                                 .n = kLanes,
                                 .k = first,
                                 .x = feedback + first * m,
                                 .x_stride = m,
                                 .w = strip.ordered.data(),
                                 .y = strip.block.data(),
                                 .y_stride = kLanes},
                                pool_));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t column = factor_.order[Size(first + i)];
    for (int64_t row = 0; row < num_rows_; ++row) {
      const Strip& strip = strips_[Size(row / kLanes)];
      target_[Size(row)] =
          strip.w[Size(column * kLanes + row % kLanes)] + strip.block[Size(i * kLanes + row % kLanes)];
    }
    SF_RETURN_IF_ERROR(Encode(column));
    for (int64_t s = 0; feedback != nullptr && s < num_strips_; ++s) {
      Strip& strip = strips_[Size(s)];
      const float* e = strip.error.data() + column * kLanes;
      std::copy_n(e, kLanes, strip.ordered.data() + (first + i) * kLanes);
      for (int64_t later = i + 1; later < count; ++later) {
        const float u = feedback[(first + later) * m + first + i];
        float* target = strip.block.data() + later * kLanes;
        for (int64_t lane = 0; lane < kLanes; ++lane) target[lane] += u * e[lane];
      }
    }
  }
  return absl::OkStatus();
}

absl::Status TrellisPanel::TimesHessian(const std::vector<float>& x, std::vector<float>& y) {
  if (factor_.is_diagonal()) {
    for (int64_t i = 0; i < k_ * kLanes; ++i) y[Size(i)] = factor_.diagonal[Size(i / kLanes)] * x[Size(i)];
    return absl::OkStatus();
  }
  return f32::Run({.m = k_,
                   .n = kLanes,
                   .k = k_,
                   .x = factor_.h.as<float>().data(),
                   .x_stride = k_,
                   .w = x.data(),
                   .y = y.data(),
                   .y_stride = kLanes},
                  pool_);
}

absl::Status TrellisPanel::Measure() {
  const auto quadratic = [&](int64_t s, const std::vector<float>& x,
                             std::vector<double>& out) -> absl::Status {
    Strip& strip = strips_[Size(s)];
    SF_RETURN_IF_ERROR(TimesHessian(x, strip.product));
    std::fill_n(out.begin() + s * kLanes, kLanes, 0.0);
    for (int64_t i = 0; i < k_ * kLanes; ++i) {
      out[Size(s * kLanes + i % kLanes)] +=
          static_cast<double>(x[Size(i)]) * static_cast<double>(strip.product[Size(i)]);
    }
    return absl::OkStatus();
  };
  for (int64_t s = 0; s < num_strips_; ++s) {
    SF_RETURN_IF_ERROR(quadratic(s, strips_[Size(s)].error, error_));
    SF_RETURN_IF_ERROR(quadratic(s, strips_[Size(s)].w, power_));
  }
  return absl::OkStatus();
}

void TrellisPanel::Store(RoundedWeights& out) const {
  const int zero = 1 << (grid_.bits - 1);
  for (int64_t row = 0; row < num_rows_; ++row) {
    out.scales[Size(first_row_ + row)] = scale_[Size(row)];
    int8_t* codes = out.codes.data() + (first_row_ + row) * k_;
    for (int64_t c = 0; c < k_; ++c) codes[c] = static_cast<int8_t>(codes_[Size(c * kRows + row)] - zero);
  }
}

}  // namespace spikefold
