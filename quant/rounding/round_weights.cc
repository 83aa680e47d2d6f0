#include "quant/rounding/round_weights.h"

#include <algorithm>
#include <numeric>

#include "quant/rounding/gptq.h"
#include "quant/rounding/row_scales.h"

namespace spikefold {
namespace {

constexpr int64_t kRowGrain = 4;

struct RowSums {
  double error = 0, power = 0;
};

// Scales, codes and error of one row, `row` being the weights without kept columns and super weights.
double RoundRow(const std::vector<float>& row, int64_t r, const WeightGrid& grid, const float* h,
                RoundedWeights& out) {
  const int64_t k = static_cast<int64_t>(row.size()), width = grid.group_width(k), groups = k / width;
  std::vector<GroupScale> scales(static_cast<size_t>(groups));
  ChooseRowScales(row.data(), h, k, grid, scales.data());
  double error = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const float* w = row.data() + g * width;
    const float* importance = h == nullptr ? nullptr : h + g * width;
    const GroupScale s = scales[static_cast<size_t>(g)];
    const size_t at = static_cast<size_t>(r * groups + g);
    out.scales[at] = s.scale;
    if (!grid.symmetric) out.zeros[at] = static_cast<int8_t>(s.zero);
    int8_t* codes = out.codes.data() + r * k + g * width;
    for (int64_t i = 0; i < width; ++i) codes[i] = static_cast<int8_t>(GridPoint(w[i], s, grid) + s.zero);
    error += GroupError(w, importance, width, s, grid);
  }
  return error;
}

// Columns that do not know of each other are those of a diagonal Hessian.
RoundedWeights NearestPaths(const RoundingInput& input, const WeightGrid& grid,
                            absl::Span<const float> importance, ThreadPool& pool) {
  HessianFactor factor;
  factor.k = input.k;
  factor.order.resize(static_cast<size_t>(input.k));
  std::iota(factor.order.begin(), factor.order.end(), 0);
  factor.diagonal.assign(importance.begin(), importance.end());
  factor.diagonal.resize(static_cast<size_t>(input.k), 1.0f);
  return Gptq(input, factor, grid, {}, pool).value();  // sizes agree by construction
}

}  // namespace

NearestRounder::NearestRounder(const RoundingInput& input, const WeightGrid& grid,
                               absl::Span<const float> importance)
    : input_(input), grid_(grid), importance_(importance) {
  out_.codes.resize(static_cast<size_t>(input.n * input.k));
  out_.scales.resize(static_cast<size_t>(input.n * grid.num_groups(input.k)));
  if (!grid.symmetric) out_.zeros.resize(out_.scales.size());
}

void NearestRounder::Add(absl::Span<const float> rows, ThreadPool& pool) {
  const int64_t k = input_.k, n = static_cast<int64_t>(rows.size()) / k;
  const float* h = importance_.empty() ? nullptr : importance_.data();
  std::vector<RowSums> sums(static_cast<size_t>(n));
  pool.ParallelFor(n, kRowGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(k));
    for (int64_t r = begin; r < end; ++r) {
      std::copy_n(rows.data() + r * k, k, row.data());
      RowSums& sum = sums[static_cast<size_t>(r)];
      for (int64_t c = 0; c < k; ++c) {
        const double w = static_cast<double>(row[static_cast<size_t>(c)]);
        sum.power += (h == nullptr ? 1.0 : static_cast<double>(h[c])) * w * w;
      }
      for (const int32_t column : input_.kept) row[static_cast<size_t>(column)] = 0;
      for (const PlannedSuper& s : input_.supers) {
        if (s.row == begin_ + r) row[static_cast<size_t>(s.column)] = 0;
      }
      sum.error = RoundRow(row, begin_ + r, grid_, h, out_);
    }
  });
  for (const RowSums& sum : sums) {
    error_ += sum.error;
    power_ += sum.power;
  }
  begin_ += n;
}

RoundedWeights NearestRounder::Finish() {
  out_.relative_error = power_ > 0 ? error_ / power_ : 0;
  return std::move(out_);
}

RoundedWeights RoundToNearest(const RoundingInput& input, const WeightGrid& grid,
                              absl::Span<const float> importance, ThreadPool& pool) {
  if (grid.trellis) return NearestPaths(input, grid, importance, pool);
  NearestRounder rounder(input, grid, importance);
  rounder.Add(input.w, pool);
  return rounder.Finish();
}

WeightGrid GridOf(const TensorDecision& d) {
  return {.bits = d.weight_bits,
          .trellis = d.trellis,
          .symmetric = !d.weight_zeros,
          .group = d.group_size,
          .scale_dtype = d.group_size == 0 ? DType::kF32 : DType::kBF16,
          .multiples = d.scale_multiples,
          .scales = d.weight_scales};
}

RoundedWeights RoundWeights(absl::Span<const float> w, const TensorDecision& decision,
                            absl::Span<const float> importance, ThreadPool& pool) {
  return RoundToNearest(
      {.w = w, .n = decision.n, .k = decision.k, .kept = decision.kept, .supers = decision.supers},
      GridOf(decision), importance, pool);
}

}  // namespace spikefold
