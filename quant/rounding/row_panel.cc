#include "quant/rounding/row_panel.h"

#include <algorithm>

#include "formats/base/status.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "quant/rounding/row_descent.h"
#include "quant/rounding/row_scales.h"

namespace spikefold {
namespace {

namespace f32 = kernels::matmul_f32_f32_f32;
static_assert(RowPanel::kRows == f32::kPanel, "a panel is a packed operand of the matmul");

// Columns whose feedback to each other is added at once; all earlier columns' comes from one matmul a block.
constexpr int64_t kBlock = 32;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

}  // namespace

RowPanel::RowPanel(const RoundingInput& input, const HessianFactor& factor, const WeightGrid& grid,
                   ThreadPool& pool)
    : input_(input),
      factor_(factor),
      grid_(grid),
      pool_(pool),
      k_(input.k),
      width_(grid.group_width(input.k)),
      groups_(grid.num_groups(input.k)),
      w_(Size(k_ * kRows)),
      e_(factor.order.size() * Size(kRows)),
      code_(Size(k_ * kRows)),
      scale_(Size(groups_ * kRows)),
      zero_(Size(groups_ * kRows)),
      target_(Size(kBlock * kRows)),
      scratch_(Size(k_ * kRows)),
      product_(Size(k_ * kRows)) {}

void RowPanel::Load(int64_t first_row) {
  first_row_ = first_row;
  num_rows_ = std::min(kRows, input_.n - first_row);
  std::fill(w_.begin(), w_.end(), 0.0f);  // lanes beyond the last row stay zeros
  std::fill(code_.begin(), code_.end(), 0.0f);
  std::fill(scale_.begin(), scale_.end(), 1.0f);
  std::fill(zero_.begin(), zero_.end(), 0.0f);
  fixed_.clear();
  for (const PlannedSuper& s : input_.supers) {
    if (s.row >= first_row && s.row < first_row + num_rows_) {
      fixed_.emplace_back(s.column, static_cast<int>(s.row - first_row));
    }
  }
  std::vector<float> row(Size(k_));
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    std::copy_n(input_.w.data() + (first_row + lane) * k_, k_, row.data());
    for (const int32_t column : input_.kept) row[Size(column)] = 0;
    for (const auto& [column, fixed_lane] : fixed_) {
      if (fixed_lane == lane) row[Size(column)] = 0;
    }
    for (int64_t c = 0; c < k_; ++c) At(w_, c)[lane] = row[Size(c)];
    ChooseScales(lane, row);
  }
}

void RowPanel::ChooseScales(int64_t lane, const std::vector<float>& row) {
  std::vector<GroupScale> scales(Size(groups_));
  unit_[lane] = ChooseRowScales(row.data(), factor_.diagonal.data(), k_, grid_, scales.data());
  for (int64_t g = 0; g < groups_; ++g) {
    At(scale_, g)[lane] = scales[Size(g)].scale;
    At(zero_, g)[lane] = scales[Size(g)].zero;
  }
}

absl::Status RowPanel::RoundAll() {
  const int64_t m = static_cast<int64_t>(factor_.order.size());
  for (int64_t first = 0; first < m; first += kBlock) {
    SF_RETURN_IF_ERROR(RoundBlock(first, std::min(kBlock, m - first)));
  }
  return absl::OkStatus();
}

absl::Status RowPanel::RoundBlock(int64_t first, int64_t count) {
  const int64_t m = static_cast<int64_t>(factor_.order.size());
  const float* feedback = factor_.feedback.as<float>().data();
  std::fill(target_.begin(), target_.end(), 0.0f);
  if (first > 0) {
    SF_RETURN_IF_ERROR(f32::Run({.m = count,
                                 .n = kRows,
                                 .k = first,
                                 .x = feedback + first * m,
                                 .x_stride = m,
                                 .w = e_.data(),
                                 .y = target_.data(),
                                 .y_stride = kRows},
                                pool_));
  }
  for (int64_t i = 0; i < count; ++i) {
    RoundColumn(first + i, At(target_, i));
    const float* e = At(e_, first + i);
    for (int64_t later = i + 1; later < count; ++later) {
      const float u = feedback[(first + later) * m + first + i];
      float* target = At(target_, later);
      for (int64_t lane = 0; lane < kRows; ++lane) target[lane] += u * e[lane];
    }
  }
  return absl::OkStatus();
}

void RowPanel::RoundColumn(int64_t step, float* target) {
  const int32_t column = factor_.order[Size(step)];
  const int64_t group = column / width_;
  const float *w = At(w_, column), *scale = At(scale_, group), *zero = At(zero_, group);
  const float lo = static_cast<float>(grid_.lo()), hi = static_cast<float>(grid_.hi());
  float *code = At(code_, column), *e = At(e_, step);
  for (int64_t lane = 0; lane < kRows; ++lane) {
    code[lane] = GridPoint(w[lane] + target[lane], scale[lane], lo - zero[lane], hi - zero[lane]);
    e[lane] = w[lane] - scale[lane] * code[lane];
  }
  for (const auto& [fixed_column, lane] : fixed_) {
    if (fixed_column == column) code[lane] = e[lane] = 0;
  }
}

absl::Status RowPanel::TimesHessian() {
  return f32::Run({.m = k_,
                   .n = kRows,
                   .k = k_,
                   .x = factor_.h.as<float>().data(),
                   .x_stride = k_,
                   .w = scratch_.data(),
                   .y = product_.data(),
                   .y_stride = kRows},
                  pool_);
}

absl::Status RowPanel::Quadratic(double* out) {
  SF_RETURN_IF_ERROR(TimesHessian());
  std::fill_n(out, kRows, 0.0);
  for (int64_t c = 0; c < k_; ++c) {
    const float *x = At(scratch_, c), *y = At(product_, c);
    for (int64_t lane = 0; lane < kRows; ++lane) {
      out[lane] += static_cast<double>(x[lane]) * static_cast<double>(y[lane]);
    }
  }
  return absl::OkStatus();
}

void RowPanel::Errors(std::vector<float>& out) const {
  for (int64_t c = 0; c < k_; ++c) {
    const float *w = At(w_, c), *code = At(code_, c), *scale = At(scale_, c / width_);
    float* e = out.data() + c * kRows;
    for (int64_t lane = 0; lane < kRows; ++lane) e[lane] = w[lane] - scale[lane] * code[lane];
  }
}

absl::Status RowPanel::Descend(int max_passes) {
  Errors(scratch_);
  SF_RETURN_IF_ERROR(TimesHessian());
  const float damping = static_cast<float>(factor_.damping);
  std::vector<float> code(Size(k_)), error(code), gradient(code), scale(Size(groups_)), lo(scale), hi(scale);
  std::vector<uint8_t> fixed(Size(k_));
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    std::fill(fixed.begin(), fixed.end(), uint8_t{0});
    for (const int32_t column : input_.kept) fixed[Size(column)] = 1;
    for (const auto& [column, fixed_lane] : fixed_) {
      if (fixed_lane == lane) fixed[Size(column)] = 1;
    }
    for (int64_t c = 0; c < k_; ++c) {
      code[Size(c)] = At(code_, c)[lane];
      error[Size(c)] = At(scratch_, c)[lane];
      gradient[Size(c)] = At(product_, c)[lane] + damping * error[Size(c)];
    }
    for (int64_t g = 0; g < groups_; ++g) {
      scale[Size(g)] = At(scale_, g)[lane];
      lo[Size(g)] = static_cast<float>(grid_.lo()) - At(zero_, g)[lane];
      hi[Size(g)] = static_cast<float>(grid_.hi()) - At(zero_, g)[lane];
    }
    DescendRow({.k = k_,
                .width = width_,
                .h = factor_.h.as<float>().data(),
                .damping = damping,
                .code = code.data(),
                .error = error.data(),
                .gradient = gradient.data(),
                .scale = scale.data(),
                .lo = lo.data(),
                .hi = hi.data(),
                .fixed = fixed.data()},
               max_passes);
    for (int64_t c = 0; c < k_; ++c) At(code_, c)[lane] = code[Size(c)];
  }
  return absl::OkStatus();
}

// What FitScales() takes:
// A_gh = c_g H c_h and b_g = c_g H e, c_g being the codes of group g.
absl::Status RowPanel::RefitScales() {
  std::vector<double> a(Size(groups_ * groups_ * kRows)), b(Size(groups_ * kRows));
  SF_RETURN_IF_ERROR(ScaleSlopes(b.data()));
  for (int64_t g = 0; g < groups_; ++g) {
    SF_RETURN_IF_ERROR(ScaleCurvatures(g, a.data() + g * groups_ * kRows));
  }
  std::vector<double> matrix(Size(groups_ * groups_)), slope(Size(groups_));
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    for (int64_t i = 0; i < groups_ * groups_; ++i) matrix[Size(i)] = a[Size(i * kRows + lane)];
    for (int64_t g = 0; g < groups_; ++g) slope[Size(g)] = b[Size(g * kRows + lane)];
    FitLane(lane, matrix, slope);
  }
  return absl::OkStatus();
}

// b [groups, kRows]
absl::Status RowPanel::ScaleSlopes(double* b) {
  Errors(scratch_);
  SF_RETURN_IF_ERROR(TimesHessian());
  for (int64_t c = 0; c < k_; ++c) {
    const float *code = At(code_, c), *gradient = At(product_, c), *e = At(scratch_, c);
    double* sum = b + c / width_ * kRows;
    for (int64_t lane = 0; lane < kRows; ++lane) {
      sum[lane] += static_cast<double>(code[lane]) *
                   (static_cast<double>(gradient[lane]) + factor_.damping * static_cast<double>(e[lane]));
    }
  }
  return absl::OkStatus();
}

// A row of A: a [groups, kRows]
absl::Status RowPanel::ScaleCurvatures(int64_t group, double* a) {
  SF_RETURN_IF_ERROR(f32::Run({.m = k_,
                               .n = kRows,
                               .k = width_,
                               .x = factor_.h.as<float>().data() + group * width_,
                               .x_stride = k_,
                               .w = At(code_, group * width_),
                               .y = product_.data(),
                               .y_stride = kRows},
                              pool_));
  for (int64_t c = 0; c < k_; ++c) {
    const float *code = At(code_, c), *y = At(product_, c);
    const double ridge = c / width_ == group ? factor_.damping : 0.0;
    double* sum = a + c / width_ * kRows;
    for (int64_t lane = 0; lane < kRows; ++lane) {
      const double value = static_cast<double>(code[lane]);
      sum[lane] += value * (static_cast<double>(y[lane]) + ridge * value);
    }
  }
  return absl::OkStatus();
}

void RowPanel::FitLane(int64_t lane, const std::vector<double>& a, std::vector<double>& b) {
  std::vector<float> scale(Size(groups_)), zero(scale);
  for (int64_t g = 0; g < groups_; ++g) {
    scale[Size(g)] = At(scale_, g)[lane];
    zero[Size(g)] = At(zero_, g)[lane];
  }
  FitScales({.groups = groups_, .a = a.data(), .b = b.data(), .zero = zero.data(), .scale = scale.data()},
            unit_[lane], grid_);
  for (int64_t g = 0; g < groups_; ++g) At(scale_, g)[lane] = scale[Size(g)];
}

absl::Status RowPanel::Measure() {
  Errors(scratch_);
  SF_RETURN_IF_ERROR(Quadratic(error_));
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    const float* row = input_.w.data() + (first_row_ + lane) * k_;
    for (int64_t c = 0; c < k_; ++c) At(scratch_, c)[lane] = row[c];
  }
  return Quadratic(power_);
}

void RowPanel::Store(RoundedWeights& out) const {
  for (int64_t lane = 0; lane < num_rows_; ++lane) {
    const int64_t row = first_row_ + lane;
    for (int64_t g = 0; g < groups_; ++g) {
      const size_t at = Size(row * groups_ + g);
      const float zero = At(zero_, g)[lane];
      out.scales[at] = At(scale_, g)[lane];
      if (!grid_.symmetric) out.zeros[at] = static_cast<int8_t>(zero);
      for (int64_t c = g * width_; c < (g + 1) * width_; ++c) {
        out.codes[Size(row * k_ + c)] = static_cast<int8_t>(At(code_, c)[lane] + zero);
      }
    }
  }
}

}  // namespace spikefold
