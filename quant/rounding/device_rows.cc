#include "quant/rounding/device_rows.h"

#include <algorithm>
#include <vector>

#include "formats/base/status.h"
#include "kernels/runtime/site_rounder.h"
#include "quant/rounding/row_scales.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 16;

size_t Size(int64_t n) { return static_cast<size_t>(n); }

class DeviceRows {
 public:
  DeviceRows(const GptqTask& task, const HessianFactor& factor, const GptqOptions& options, ThreadPool& pool,
             RoundedWeights& out)
      : input_(task.input),
        grid_(task.grid),
        factor_(factor),
        device_(*factor.device),
        options_(options),
        pool_(pool),
        out_(out),
        k_(input_.k),
        groups_(grid_.num_groups(k_)) {}

  absl::Status Run(double* error, double* power) {
    SF_ASSIGN_OR_RETURN(const int64_t most, device_.RowsAtOnce(input_.n, grid_.group_width(k_)));
    for (first_ = 0; first_ < input_.n; first_ += count_) {
      count_ = std::min(most, input_.n - first_);
      SF_RETURN_IF_ERROR(Load());
      SF_RETURN_IF_ERROR(device_.Round());
      if (options_.descent_passes > 0) SF_RETURN_IF_ERROR(device_.Descend(options_.descent_passes));
      for (int i = 0; i < options_.scale_refits; ++i) {
        SF_RETURN_IF_ERROR(RefitScales());
        SF_RETURN_IF_ERROR(device_.Descend(options_.descent_passes));
      }
      SF_RETURN_IF_ERROR(
          device_.Store(zero_.data(), out_.codes.data() + first_ * k_, error + first_, power + first_));
      StoreScales();
    }
    return absl::OkStatus();
  }

 private:
  float* ScalesOf(int64_t row) { return scale_.data() + row * groups_; }

  absl::Status Load() {
    FindSupers();
    const size_t scales = Size(count_ * groups_);
    scale_.resize(scales);
    zero_.resize(scales);
    unit_.resize(Size(count_));
    pool_.ParallelFor(count_, kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) ChooseScales(row);
    });
    std::vector<float> lo(scales), hi(scales);
    for (size_t i = 0; i < scales; ++i) {
      lo[i] = static_cast<float>(grid_.lo()) - zero_[i];
      hi[i] = static_cast<float>(grid_.hi()) - zero_[i];
    }
    return device_.Load({.n = count_,
                         .width = grid_.group_width(k_),
                         .w = input_.w.data() + first_ * k_,
                         .scale = scale_.data(),
                         .lo = lo.data(),
                         .hi = hi.data(),
                         .kept = input_.kept,
                         .super_begin = super_begin_,
                         .super_column = super_column_});
  }

  void FindSupers() {
    super_begin_.assign(Size(count_ + 1), 0);
    super_column_.clear();
    std::vector<PlannedSuper> mine;
    for (const PlannedSuper& s : input_.supers) {
      if (s.row >= first_ && s.row < first_ + count_) mine.push_back(s);
    }
    std::stable_sort(mine.begin(), mine.end(),
                     [](const PlannedSuper& a, const PlannedSuper& b) { return a.row < b.row; });
    for (const PlannedSuper& s : mine) {
      ++super_begin_[Size(s.row - first_ + 1)];
      super_column_.push_back(s.column);
    }
    for (size_t i = 1; i < super_begin_.size(); ++i) super_begin_[i] += super_begin_[i - 1];
  }

  void ChooseScales(int64_t row) {
    std::vector<float> w(input_.w.data() + (first_ + row) * k_, input_.w.data() + (first_ + row + 1) * k_);
    for (const int32_t column : input_.kept) w[Size(column)] = 0;
    for (int32_t s = super_begin_[Size(row)]; s < super_begin_[Size(row + 1)]; ++s) {
      w[Size(super_column_[Size(s)])] = 0;
    }
    std::vector<GroupScale> scales(Size(groups_));
    unit_[Size(row)] = ChooseRowScales(w.data(), factor_.diagonal.data(), k_, grid_, scales.data());
    for (int64_t g = 0; g < groups_; ++g) {
      scale_[Size(row * groups_ + g)] = scales[Size(g)].scale;
      zero_[Size(row * groups_ + g)] = scales[Size(g)].zero;
    }
  }

  absl::Status RefitScales() {
    const auto fit = [this](int64_t first, int64_t count, double* a, double* b) {
      pool_.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          FitScales({.groups = groups_,
                     .a = a + i * groups_ * groups_,
                     .b = b + i * groups_,
                     .zero = zero_.data() + (first + i) * groups_,
                     .scale = ScalesOf(first + i)},
                    unit_[Size(first + i)], grid_);
        }
      });
    };
    return device_.FitScales(fit, scale_.data());
  }

  void StoreScales() {
    std::copy(scale_.begin(), scale_.end(), out_.scales.begin() + first_ * groups_);
    if (grid_.symmetric) return;
    std::transform(zero_.begin(), zero_.end(), out_.zeros.begin() + first_ * groups_,
                   [](float zero) { return static_cast<int8_t>(zero); });
  }

  const RoundingInput& input_;
  const WeightGrid& grid_;
  const HessianFactor& factor_;
  SiteRounder& device_;
  const GptqOptions& options_;
  ThreadPool& pool_;
  RoundedWeights& out_;
  const int64_t k_, groups_;
  int64_t first_ = 0, count_ = 0;    // rows that are being rounded
  std::vector<float> scale_, zero_;  // [count, groups]
  std::vector<float> unit_;          // [count] whose multiples the scales are (grid.multiples)
  std::vector<int32_t> super_begin_, super_column_;
};

}  // namespace

absl::Status RoundOnDevice(const GptqTask& task, const HessianFactor& factor, const GptqOptions& options,
                           ThreadPool& pool, RoundedWeights& out, double* error, double* power) {
  return DeviceRows(task, factor, options, pool, out).Run(error, power);
}

}  // namespace spikefold
